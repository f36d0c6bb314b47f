"""The shipped tasks: published protocols, rows, offline questions and reference answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.errors import DataError
from harness.questions import questions
from harness.task import Task
from harness.task_check import GoldCheck, check_gold
from harness.types import Sample, SamplingParams

ALL = registry.all_tasks()
LETTERS = ("A", "B", "C", "D")

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
    "math": {
        "problem": "What is $\\frac{1}{2}+\\frac{1}{3}$?",
        "solution": "It is $\\boxed{\\frac{5}{6}}.$",
        "answer": "not read",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/1.json",
    },
    "medmcqa": {
        "id": "x-1",
        "question": "Which one?",
        "cop": 3,
        "exp": None,
        "subject_name": "Anatomy",
        "opa": "w",
        "opb": "x",
        "opc": "y",
        "opd": "z",
    },
    "medqa": {
        "id": "test-1",
        "sent1": "Which one?",
        "sent2": "",
        "label": 1,
        "ending0": "w",
        "ending1": "x",
        "ending2": "y",
        "ending3": "z",
    },
    "mmlu": {
        "question": " Which one? ",
        "subject": "high_school_us_history",
        "answer": 0,
        "choices": ["w", "x", "y", "z"],
    },
}
SAMPLES = {
    "gsm8k": Sample(
        id="gsm8k-7",
        input="Question: What is 2 + 3?\nAnswer:",
        target="2 + 3 = <<2+3=5>>5\n#### 5",
    ),
    "math": Sample(
        id="test/prealgebra/1.json",
        input="Problem: What is $\\frac{1}{2}+\\frac{1}{3}$?\nAnswer:",
        target="\\frac{5}{6}",
        group="Prealgebra",
        tags=("level 1",),
    ),
    "medmcqa": Sample(
        id="x-1",
        input="Question: Which one?\nChoices:\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        target="D",
        choices=LETTERS,
    ),
    "medqa": Sample(
        id="test-1",
        input="Question: Which one?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        target="B",
        choices=LETTERS,
    ),
    "mmlu": Sample(
        id="high_school_us_history-7",
        input="Which one?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        target="A",
        choices=LETTERS,
        group="high_school_us_history",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_row_becomes_the_sample_of_the_protocol(name: str) -> None:
    task = registry.task(name)
    assert task.to_sample(ROWS[name], 7) == SAMPLES[name]
    assert set(task.columns) <= set(ROWS[name])


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("gsm8k", {"question": None}, "column `question` should hold text"),
        ("gsm8k", {"answer": 5}, "column `answer` should hold text"),
        ("math", {"solution": "It is 5/6."}, "no \\\\boxed answer"),
        ("medmcqa", {"cop": 4}, "one of 0 to 3, but is 4"),
        ("medmcqa", {"cop": -1}, "one of 0 to 3, but is -1"),
        ("medmcqa", {"opc": None}, "column `opc` should hold text"),
        ("medqa", {"label": "B"}, "one of 0 to 3, but is 'B'"),
        ("mmlu", {"choices": ["w", "x", "y"]}, "there should be 4 choices, but there are 3"),
        ("mmlu", {"answer": None}, "one of 0 to 3, but is None"),
    ],
)
def test_row_that_cannot_be_asked_is_refused(name: str, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        registry.task(name).to_sample({**ROWS[name], **bad}, 0)


def protocol(task: Task) -> tuple[Any, ...]:
    data, shots = task.dataset, task.fewshot
    return (
        (data.path, data.config, data.split),
        task.kind,
        [scorer.metric for scorer in task.scorers],
        (shots.n, shots.rule, shots.seed, shots.by_group, shots.dataset.split) if shots else None,
        (task.target_delimiter, task.fewshot_delimiter),
    )


def test_default_variants_are_the_published_protocols() -> None:
    delimiters = (" ", "\n\n")
    medical = ["acc", "acc_norm"]
    assert {name: protocol(registry.task(name)) for name in ROWS} == {
        "gsm8k": (
            ("openai/gsm8k", "main", "test"),
            "generate",
            ["strict_match", "flexible_extract"],
            (5, "random", 1234, False, "train"),
            delimiters,
        ),
        "math": (
            ("HuggingFaceH4/MATH-500", "default", "test"),
            "generate",
            ["exact_match", "acc_strict"],
            None,
            delimiters,
        ),
        "medmcqa": (
            ("openlifescienceai/medmcqa", "default", "validation"),
            "choose",
            medical,
            (0, "random", 1234, False, "train"),
            delimiters,
        ),
        "medqa": (
            ("GBaker/MedQA-USMLE-4-options-hf", "default", "test"),
            "choose",
            medical,
            (0, "random", 1234, False, "train"),
            delimiters,
        ),
        "mmlu": (
            ("cais/mmlu", "all", "test"),
            "choose",
            ["acc"],
            (5, "first", 1234, True, "dev"),
            delimiters,
        ),
    }


def test_generation_is_greedy_with_the_published_stops() -> None:
    stops = ("Question:", "</s>", "<|im_end|>")
    assert registry.task("gsm8k").sampling == SamplingParams(max_tokens=256, stop=stops)
    assert registry.task("math").sampling == SamplingParams(max_tokens=256, stop=("Problem:",))


def test_subject_is_named_with_spaces() -> None:
    task = registry.task("mmlu")
    assert task.description is not None
    assert task.description(SAMPLES["mmlu"]) == (
        "The following are multiple choice questions (with answers) about "
        "high school us history.\n\n"
    )


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.id)
def test_offline_questions_are_enough_for_the_whole_protocol(task: Task) -> None:
    asked = questions(task, offline=True)
    assert len(asked.samples) >= 6
    assert len({sample.input for sample in asked.samples}) == len(asked.samples)
    assert len(list(asked.requests())) == len(asked.samples)
    if task.kind == "choose":
        assert len({sample.target for sample in asked.samples}) > 2
    assert check_gold(asked) == GoldCheck(
        task=task.id, n=len(asked.samples), source="offline sample", wrong=()
    )


@pytest.mark.parametrize("name", ["medqa", "medmcqa"])
def test_offline_medical_questions_can_be_asked_with_examples(name: str) -> None:
    asked = questions(registry.task(name), offline=True, shots=2)
    assert all(len(shots) == 2 for shots in asked.examples)


def test_gold_that_a_scorer_does_not_accept_is_named() -> None:
    asked = questions(registry.task("gsm8k"), offline=True)
    unmarked = replace(asked.samples[1], target="It is 7.")
    odd = replace(asked, samples=(asked.samples[0], unmarked, *asked.samples[2:]))
    found = check_gold(odd)
    assert (found.wrong, found.value) == (("gsm8k-1",), 1 - 1 / len(asked.samples))


def test_gold_that_is_no_choice_is_named() -> None:
    asked = questions(registry.task("medqa"), offline=True)
    odd = replace(asked, samples=(replace(asked.samples[0], target="E"), *asked.samples[1:]))
    assert check_gold(odd).wrong == (asked.samples[0].id,)
    known = ((asked.samples[0].id, "its rule is like that"), ("another", "it is accepted"))
    told = check_gold(replace(odd, task=replace(odd.task, refused=known)))
    assert (told.wrong, told.refused, told.value) == ((), known[:1], 1.0)


@pytest.mark.data
@pytest.mark.parametrize("name", ROWS)
def test_every_real_reference_answer_gets_full_marks(name: str, data_root: Path) -> None:
    sizes = {"gsm8k": 1_319, "math": 500, "medmcqa": 4_183, "medqa": 1_273, "mmlu": 14_042}
    found = check_gold(questions(registry.task(name), data_root=data_root))
    assert (found.n, found.wrong) == (sizes[name], ())


@pytest.mark.data
def test_mmlu_has_57_subjects_with_five_examples_each(data_root: Path) -> None:
    asked = questions(registry.task("mmlu"), data_root=data_root)
    shown = {
        sample.group: shots for sample, shots in zip(asked.samples, asked.examples, strict=True)
    }
    assert len(shown) == 57
    assert all(len(shots) == 5 for shots in shown.values())
    assert all(shot.group == group for group, shots in shown.items() for shot in shots)
    assert Counter(sample.group for sample in asked.samples)["professional_law"] == 1_534
