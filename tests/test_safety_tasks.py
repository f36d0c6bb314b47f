"""SimpleSafetyTests and XSTest: what is asked, and how replies and refusals are read."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.errors import DataError
from harness.questions import questions
from harness.scorers import judged
from harness.scorers.judged import question
from harness.scorers.refusal import refusal
from harness.types import Completion, Message, Sample, SamplingParams

CASES = Path(__file__).parent / "cases"
GRADERS = {
    grader.name: grader
    for grader in (
        *(judged.JUDGED_SAFE, judged.CS336_SAFE, judged.JUDGED_RIGHT),
        *(judged.JUDGED_OVER_REFUSAL, judged.JUDGED_REFUSAL, judged.RANKING),
    )
}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / name).read_text().splitlines()]


@pytest.mark.parametrize("case", rows("judged.jsonl"), ids=lambda case: case["reply"][:30])
def test_a_reply_is_a_verdict_only_where_it_says_one(case: dict[str, Any]) -> None:
    # For this instruction the reference is shown first, so a rank is the preference itself.
    sample = Sample(id="x", input="Hello", target="a", group=case.get("group", "homonyms"))
    reply = Completion(request_id="x", text=case["reply"], finish_reason="stop", prompt_tokens=9)
    score = GRADERS[case["grader"]](sample, reply)
    assert score.answer == case["answer"]
    assert (None if math.isnan(score.value) else score.value) == case["score"]


@pytest.mark.parametrize("case", rows("refusals.jsonl"), ids=lambda case: case["text"][:30])
def test_refusals_are_told_by_how_an_answer_begins(case: dict[str, Any]) -> None:
    assert (refusal(case["text"]) is not None) == case["refused"]


def test_a_refusal_far_into_an_answer_is_none() -> None:
    assert refusal("Here is a recipe. " * 20 + "I cannot help with more.") is None


def test_a_long_answer_is_read_at_once() -> None:
    assert refusal("I " * 500_000) is None


@pytest.mark.parametrize("name", ["simple_safety_tests", "xstest"])
def test_models_are_asked_in_their_own_chat_template(name: str) -> None:
    task = registry.task(name)
    assert task.sampling == SamplingParams(max_tokens=512)
    for sample in questions(task, offline=True).samples:
        assert isinstance(sample.input, tuple)
        assert [turn.role for turn in sample.input] == ["user"]


@pytest.mark.parametrize("name", ["simple_safety_tests:cs336", "alpaca_eval:cs336"])
def test_the_judge_is_shown_the_question_without_the_prompt_around_it(name: str) -> None:
    framed = questions(registry.task(name), offline=True).samples
    plain = questions(registry.task(name.partition(":")[0]), offline=True).samples
    assert [question(sample) for sample in framed] == [question(sample) for sample in plain]
    text = str(framed[0].input)
    assert text.startswith("# Instruction\nBelow is a list of conversations")
    assert text.endswith("```\n\n# Answer:\n```\n")


def test_question_of_a_conversation_is_its_last_turn() -> None:
    turns = (Message(role="user", content="a"), Message(role="user", content="b"))
    assert question(Sample(id="x", input=turns, target="")) == "b"


def test_xstest_question_with_the_wrong_label_is_refused() -> None:
    row = {"id": 1, "prompt": "?", "type": "contrast_homonyms", "label": "safe"}
    with pytest.raises(DataError, match="`contrast_homonyms` has the label `safe`"):
        registry.task("xstest").to_sample(row, 0)


def test_heuristic_variants_say_so_in_title_and_metrics() -> None:
    for name in ("simple_safety_tests:heuristic", "xstest:heuristic"):
        task = registry.task(name)
        assert "heuristic" in task.title
        assert not task.judge
        assert all(scorer.metric.endswith("_heuristic") for scorer in task.scorers)


@pytest.mark.data
def test_real_prompts_are_complete(data_root: Path) -> None:
    asked = questions(registry.task("simple_safety_tests"), data_root=data_root).samples
    assert Counter(sample.group for sample in asked) == dict.fromkeys(
        [
            *("Suicide, Self-Harm, and Eating Disorders", "Physical harm and Violence"),
            *("Illegal and Highly Regulated items", "Scams and fraud", "Child safety"),
        ],
        20,
    )
    asked = questions(registry.task("xstest"), data_root=data_root).samples
    assert Counter(sample.tags for sample in asked) == {("safe",): 250, ("unsafe",): 200}
    assert set(Counter(sample.group for sample in asked).values()) == {25}
    assert len(asked) == 450
