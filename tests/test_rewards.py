"""Rewards are the grades of the task that the model will be judged on."""

from __future__ import annotations

import dataclasses

import pytest

from harness import registry
from harness.errors import DataError, UsageError
from harness.types import Completion, Message, Sample, SamplingParams, Score, to_json
from trainers.rewards import (
    Answer,
    RolloutParams,
    grade,
    reward_parts,
    reward_task,
    sample_from_json,
)

SAMPLE = Sample(id="one", input="Question: 5+7?\nAnswer:", target="5+7=12\n#### 12")


def answer(text: str, sample: Sample = SAMPLE, *, truncated: bool = False) -> Answer:
    return Answer(sample=sample, text=text, tokens=9, truncated=truncated)


@pytest.mark.parametrize(
    ("name", "target", "text", "value"),
    [
        ("arithmetic", "#### 12", " It is 12.\n#### 12", 1.0),
        ("arithmetic", "#### 12", " It is 12.", 0.0),
        ("gsm8k", "#### 1,200", "#### 1200", 1.0),
        ("gsm8k:cs336", "12", "so 7 and then 12", 1.0),
        ("math:r1_zero", "7", "so </think> <answer>7</answer>", 1.0),
        ("math:r1_zero", "7", "so </think> <answer>8</answer>", 0.0),
        ("math:r1_zero", "7", "so </think><answer>7</answer>", 0.0),
    ],
)
def test_the_reward_is_the_grade_of_the_task(
    name: str, target: str, text: str, value: float
) -> None:
    task = reward_task(name)
    sample = dataclasses.replace(SAMPLE, target=target)
    completion = Completion(request_id="one", text=text, finish_reason="stop", prompt_tokens=5)
    score = grade(task, answer(text, sample))
    assert score == task.scorers[0](sample, completion)
    assert score.value == value


def test_the_reward_is_split_into_form_and_answer() -> None:
    task = reward_task("math:r1_zero")
    texts = ["a </think> <answer>12</answer>", "a </think> <answer>1</answer>", "12", "12"]
    sample = dataclasses.replace(SAMPLE, target="12")
    scores = [grade(task, answer(text, sample)) for text in texts]
    assert reward_parts(scores) == {
        "reward": 0.25,
        "reward_format": 0.5,
        "reward_answer": 0.5,
    }


def test_without_an_answer_in_the_right_form_the_answer_part_is_zero() -> None:
    scores = [Score(value=0, answer=None, grader="g", version=1)]
    assert reward_parts(scores) == {"reward": 0, "reward_format": 0, "reward_answer": 0}


def broken(sample: Sample, completion: Completion) -> Score:
    raise ZeroDivisionError("no")


def mute(sample: Sample, completion: Completion) -> Score:
    return Score(value=float("nan"), answer=None, grader="g", version=1, explanation="no verdict")


def test_a_grader_that_raises_is_an_error_and_not_a_zero() -> None:
    task = dataclasses.replace(reward_task("arithmetic"), scorers=(broken,))
    with pytest.raises(ZeroDivisionError) as caught:
        grade(task, answer("12"))
    assert caught.value.__notes__ == ["while `arithmetic` graded the answer to `one`"]


def test_a_grade_that_is_no_number_is_an_error() -> None:
    task = dataclasses.replace(reward_task("arithmetic"), scorers=(mute,))
    with pytest.raises(DataError, match="`arithmetic` gave `one` no grade: no verdict"):
        grade(task, answer("12"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("medqa", "scores given choices"),
        ("alpaca_eval", "needs another model as judge"),
        ("lm_eval/gsm8k", "is graded by lm-eval"),
        ("gsm8kk", "unknown task"),
    ],
)
def test_a_task_that_cannot_reward_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reward_task(name)


def test_rollouts_are_sampled_as_the_task_asks_unless_told_otherwise() -> None:
    task = registry.task("math:r1_zero")
    own = RolloutParams(reward="math:r1_zero")
    assert own.sampling(task) == dataclasses.replace(task.sampling, n=1)
    assert own.sampling(task).include_stop
    told = RolloutParams(reward="arithmetic", max_tokens=7, stop=("x",), temperature=0.5, top_p=0.9)
    assert told.sampling(registry.task("arithmetic")) == SamplingParams(
        temperature=0.5, top_p=0.9, max_tokens=7, stop=("x",)
    )


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"top_p": 1.5}, {"max_tokens": 0}])
def test_sampling_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=rf"`params.{next(iter(wrong))}` is"):
        RolloutParams(reward="arithmetic", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sample",
    [
        SAMPLE,
        dataclasses.replace(
            SAMPLE,
            input=(Message(role="user", content="5+7?"),),
            choices=("a", "b"),
            group="sums",
            tags=("level 1",),
        ),
    ],
)
def test_samples_come_back_from_json_as_they_were(sample: Sample) -> None:
    assert sample_from_json(to_json(sample)) == sample
