"""Variants of gsm8k, mmlu, medqa and medmcqa beside the default ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.errors import DataError
from harness.plan import write_plan
from harness.questions import questions
from harness.runs import COMPLETIONS, REQUESTS
from harness.score import score
from harness.task import Task
from harness.task_check import check_gold
from harness.types import Completion, Message, Sample, SamplingParams, to_json
from tasks.mmlu import MEDICAL_SUBJECTS

QUESTION = {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}
CHOICE = {"subject": "high_school_biology", "question": " Which one?", "answer": 2}
CHOICE |= {"choices": ["w", "x", "y", "z"]}
MEDQA = {"id": "t-1", "sent1": "Which one?", "label": 1}
MEDQA |= {f"ending{place}": text for place, text in enumerate("wxyz")}
MEDMCQA = {"id": "m-1", "question": "Which one?", "cop": 3}
MEDMCQA |= {f"op{letter}": text for letter, text in zip("abcd", "wxyz", strict=True)}

CONVERSATION = """# Query:
```{}```

# Answer:
```
"""
ASFT_PROMPT = "Question: {}\n\nOptions:\nA. w\nB. x\nC. y\nD. z\n\nAnswer:"
SPELLINGS = ("A", "B", "C", "D", "a", "b", "c", "d")
VARIANTS = (
    *("gsm8k:cot", "gsm8k:zeroshot", "gsm8k:cs336", "gsm8k:boxed"),
    *("mmlu:generative", "mmlu:medical", "mmlu:cs336", "medqa:asft", "medmcqa:asft"),
)


def sample(name: str, row: dict[str, Any]) -> Sample:
    return registry.task(name).to_sample(row, 7)


def text_of(name: str, row: dict[str, Any]) -> str:
    prompt = sample(name, row).input
    assert isinstance(prompt, str)
    return prompt


def test_prompts_of_gsm8k_are_the_published_ones() -> None:
    assert text_of("gsm8k:cot", QUESTION) == "Q: What is 2 + 3?\nA:"
    assert text_of("gsm8k:zeroshot", QUESTION) == (
        "Q: What is 2 + 3?\nA: Let's think step by step."
    )
    assert text_of("gsm8k:boxed", QUESTION) == (
        "What is 2 + 3?\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    conversation = text_of("gsm8k:cs336", QUESTION)
    assert conversation.startswith("# Instruction\nBelow is a list of conversations between a")
    assert conversation.endswith(CONVERSATION.format("What is 2 + 3?"))
    assert {sample(f"gsm8k:{v}", QUESTION).target for v in ("cot", "cs336", "boxed")} == {"5"}


def test_prompts_of_mmlu_are_the_published_ones() -> None:
    assert text_of("mmlu:generative", CHOICE) == text_of("mmlu", CHOICE)
    assert text_of("mmlu:medical", CHOICE) == ASFT_PROMPT.format(" Which one?")
    instruction = (
        "Answer the following multiple choice question about high school biology. Respond with a "
        'single sentence of the form "The correct answer is _", filling the blank with the letter '
        "corresponding to the correct answer (i.e., A, B, C or D).\n\n"
        "Question:  Which one?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    assert text_of("mmlu:cs336", CHOICE).endswith(CONVERSATION.format(instruction))


def test_prompts_of_the_medical_tasks_are_those_of_asft() -> None:
    assert sample("medqa:asft", MEDQA) == Sample(
        id="t-1", input=ASFT_PROMPT.format("Which one?"), target="B", choices=SPELLINGS
    )
    assert sample("medmcqa:asft", MEDMCQA) == Sample(
        id="m-1", input=ASFT_PROMPT.format("Which one?"), target="D", choices=SPELLINGS
    )


def protocol(task: Task) -> tuple[Any, ...]:
    stops = task.sampling.stop if task.kind == "generate" else None
    tokens = task.sampling.max_tokens if task.kind == "generate" else None
    shots = task.fewshot.n if task.fewshot else 0
    return [scorer.name for scorer in task.scorers], shots, tokens, stops


def test_variants_are_the_published_protocols() -> None:
    cot = ("Q:", "</s>", "<|im_end|>")
    qwen = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")
    lm_eval = ["gsm8k_cot_strict", "gsm8k_flexible"]
    asft = (["asft", "asft_logsumexp"], 0, None, None)
    assert {name: protocol(registry.task(name)) for name in VARIANTS} == {
        "gsm8k:cot": (lm_eval, 8, 256, cot),
        "gsm8k:zeroshot": (lm_eval, 0, 256, cot),
        "gsm8k:cs336": (["cs336_gsm8k", "number"], 0, 512, ("```",)),
        "gsm8k:boxed": (["number", "boxed_number"], 0, 2048, qwen),
        "mmlu:generative": (["first_line", "choice"], 5, 256, ("</s>", "\n")),
        "mmlu:medical": asft,
        "mmlu:cs336": (["cs336_mmlu", "choice"], 0, 128, ("```",)),
        "medqa:asft": asft,
        "medmcqa:asft": asft,
    }
    first_tokens = ("mmlu:medical", "medqa:asft", "medmcqa:asft")
    told = {
        name: (task.version, task.top_tokens) for name in VARIANTS for task in [registry.task(name)]
    }
    assert told == {name: (2, 10) if name in first_tokens else (1, None) for name in VARIANTS}


def test_written_answers_offer_no_choices_to_the_engine() -> None:
    asked = next(questions(registry.task("mmlu:cs336"), offline=True).requests())
    assert (asked.kind, asked.choices) == ("generate", ())
    assert asked.sampling == SamplingParams(max_tokens=128, stop=("```",))


def test_letters_are_asked_for_in_both_spellings_after_a_space() -> None:
    asked = next(questions(registry.task("medqa:asft"), offline=True).requests())
    assert asked.choices == tuple(f" {letter}" for letter in SPELLINGS)


def test_boxed_question_is_one_turn_of_a_chat() -> None:
    asked = next(questions(registry.task("gsm8k:boxed"), offline=True, chat=True).requests())
    (turn,) = asked.prompt
    assert isinstance(turn, Message)
    assert (turn.role, turn.content.endswith("within \\boxed{}.")) == ("user", True)


FIRST_TOKENS = {
    "best of the letters": (((" A", -0.5), (" B", -1.5)), "A", 1.0),
    "a letter may be far down": (((" The", -0.1), ("\n", -3.0), ("c", -9.0)), "C", 0.0),
    "the last spelling counts": (((" A", -0.5), (" B", -1.0), (" a", -4.0)), "B", 0.0),
    "a letter in the token": ((("(B", -0.1), ("(", -0.2)), "B", 0.0),
    "nothing is A and unread": (((" The", -0.1), ("\n", -3.0)), None, 1.0),
}


@pytest.mark.parametrize("name", FIRST_TOKENS)
def test_likeliest_first_tokens_are_read_by_the_published_rule(name: str) -> None:
    tokens, answer, value = FIRST_TOKENS[name]
    told = Completion(request_id="q", finish_reason="scored", prompt_tokens=1, top_tokens=tokens)
    grade = registry.task("medqa:asft").scorers[0](
        Sample(id="q", input="?", target="A", choices=SPELLINGS), told
    )
    assert (grade.answer, grade.value, grade.parsed) == (answer, value, answer is not None)


def test_answers_without_first_tokens_are_asked_anew() -> None:
    told = Completion(request_id="q", finish_reason="scored", prompt_tokens=1)
    asked = Sample(id="q", input="?", target="A", choices=SPELLINGS)
    with pytest.raises(DataError, match="`q` does not tell the likeliest first tokens"):
        registry.task("medqa:asft").scorers[0](asked, told)


def test_fallback_counts_as_a_parse_failure_and_the_repaired_grade_has_none(tmp_path: Path) -> None:
    task = registry.task("medqa:asft")
    asked = questions(task, offline=True)
    write_plan(asked, tmp_path / REQUESTS)
    with (tmp_path / COMPLETIONS).open("w") as file:
        for place, one in enumerate(asked.samples):
            best = tuple(-1.0 if letter == one.target else -9.0 for letter in one.choices)
            completion = Completion(
                request_id=one.id,
                finish_reason="scored",
                prompt_tokens=1,
                choice_logprobs=best,
                top_tokens=((" The" if place == 0 else f" {one.target}", -0.5),),
            )
            file.write(json.dumps(to_json(completion)) + "\n")
    measures = {one.metric: one for one in score(tmp_path, task).measures}
    assert measures["parse_failure_rate"].value == 1 / len(asked.samples)
    fell_back = float(asked.samples[0].target == "A")
    assert measures["acc"].value == (len(asked.samples) - 1 + fell_back) / len(asked.samples)
    assert measures["acc_logsumexp"].value == 1


@pytest.mark.data
@pytest.mark.parametrize("name", VARIANTS)
def test_every_real_reference_answer_gets_full_marks(name: str, data_root: Path) -> None:
    sizes = {"gsm8k": 1_319, "mmlu": 14_042, "medqa": 1_273, "medmcqa": 4_183}
    found = check_gold(questions(registry.task(name), data_root=data_root))
    n = 2_739 if name == "mmlu:medical" else sizes[name.partition(":")[0]]
    assert (found.n, found.wrong) == (n, ())


@pytest.mark.data
def test_medical_subjects_are_the_twelve_of_asft(data_root: Path) -> None:
    asked = questions(registry.task("mmlu:medical"), data_root=data_root)
    sizes = Counter(sample.group for sample in asked.samples)
    assert set(sizes) == set(MEDICAL_SUBJECTS)
    assert [n for _, n in sizes.most_common()] == [
        *(545, 310, 306, 272, 265, 223, 173, 166, 144, 135, 100, 100)
    ]
