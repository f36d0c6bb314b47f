"""The reward of a completion is the grade that a task's scorer gives it.

What is trained for is thus what is tested: same scorer, same stop strings, same text.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import registry
from harness.errors import DataError, UsageError
from harness.lm_eval_task import is_lm_eval
from harness.task import Task
from harness.types import JSON, Completion, Sample, SamplingParams, Score, prompt_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutParams:
    """What every method has that learns from its own completions.

    reward: the task whose first scorer grades them. temperature, top_p, max_tokens, stop: how they
    are sampled; where max_tokens or stop is left open it is the task's own, so that training sees
    what the evaluation sees. min_tokens: before which no end token is sampled.
    """

    reward: str
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require(
            "temperature",
            self.temperature,
            self.temperature > 0,
            "above 0, or all rollouts of a prompt are alike",
        )
        require("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        require(
            "max_tokens", self.max_tokens, self.max_tokens is None or self.max_tokens > 0, "above 0"
        )

        require("min_tokens", self.min_tokens, self.min_tokens >= 0, "0 or more")

    def sampling(self, task: Task) -> SamplingParams:
        return dataclasses.replace(
            task.sampling,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens or task.sampling.max_tokens,
            stop=task.sampling.stop if self.stop is None else tuple(self.stop),
            n=1,
        )


def require(name: str, value: object, holds: bool, rule: str) -> None:
    """Raises UsageError where a parameter breaks its rule."""
    if not holds:
        raise UsageError(f"`params.{name}` is {value!r}", f"it has to be {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the policy wrote to one problem."""

    sample: Sample
    text: str
    tokens: int
    truncated: bool


def reward_task(name: str) -> Task:
    """The task whose first scorer is the reward.

    Raises UsageError for a task that is not known, where choices are scored and nothing is
    written, where lm-eval grades whole runs, and where another model is the judge.
    """
    task = registry.task(name)
    if task.kind != "generate":
        raise UsageError(
            f"`reward: {task.id}` scores given choices, so there is no text to reward",
            "use a task in which the model writes, as `gsm8k` or `math:r1_zero`",
        )
    if is_lm_eval(task):
        raise UsageError(
            f"`reward: {task.id}` is graded by lm-eval, which grades a run as a whole",
            "use a task of this project, as `gsm8k` or `math:r1_zero`",
        )
    if task.judge:
        raise UsageError(
            f"`reward: {task.id}` needs another model as judge, which a training run has not",
            "use a task with a grader of its own, as `gsm8k` or `math:r1_zero`",
        )
    return task


def grade(task: Task, answer: Answer) -> Score:
    """The grade of the task's first scorer. A grader that breaks is an error and not a zero: what
    it raises goes on, with the sample's id."""
    completion = Completion(
        request_id=answer.sample.id,
        text=answer.text,
        finish_reason="length" if answer.truncated else "stop",
        prompt_tokens=0,  # an engine counts them; no grade depends on it
        completion_tokens=answer.tokens,
    )
    try:
        score = task.scorers[0](answer.sample, completion)
    except Exception as error:
        error.add_note(f"while `{task.id}` graded the answer to `{answer.sample.id}`")
        raise
    if not math.isfinite(score.value):
        raise DataError(
            f"`{task.id}` gave `{answer.sample.id}` no grade: {score.explanation or score.value}",
            "leave the sample out, or reward with another task",
        )
    return score


def reward_parts(scores: Sequence[Score]) -> Mapping[str, float]:
    """Mean reward, and what it is made of.

    reward_format: share of the completions in which an answer could be read. reward_answer: mean
    reward of those alone, 0 where there is none.
    """
    read = [score.value for score in scores if score.parsed]
    return {
        "reward": statistics.fmean(score.value for score in scores),
        "reward_format": len(read) / len(scores),
        "reward_answer": statistics.fmean(read) if read else 0.0,
    }


def sample_from_json(value: JSON) -> Sample:
    given = {name: tuple(value.get(name, ())) for name in ("choices", "tags")}
    return Sample(**{**value, **given, "input": prompt_from_json(value["input"])})
