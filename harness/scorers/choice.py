"""Multiple choice by log-probability, as lm-evaluation-harness 0.4.13 decides it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.types import UNLISTED, Completion, Sample, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceMatch:
    """The likeliest choice; the first of equals wins.

    by_length: each sum of log-probabilities is divided by the characters of its choice first,
    the delimiter not counted.
    """

    name: str
    metric: str
    by_length: bool = False
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        ranked = sorted(
            zip(sample.choices, completion.choice_logprobs, strict=True),
            key=lambda pair: -self._weight(*pair),
        )
        chosen, logprob = ranked[0]
        if all(value == UNLISTED for _, value in ranked):
            return self._unread()
        explanation = f"{chosen!r} at {logprob:.3f} nats"
        if len(ranked) > 1:
            explanation += f", next {ranked[1][0]!r} at {ranked[1][1]:.3f}"
        return Score(
            value=float(chosen == sample.target),
            answer=chosen,
            grader=self.name,
            version=self.version,
            explanation=explanation,
        )

    def _unread(self) -> Score:
        """The model's likeliest tokens hold no choice at all: no answer, and not the first one."""
        return Score(
            value=0.0,
            answer=None,
            grader=self.name,
            version=self.version,
            explanation="no choice is among the tokens that the server lists",
        )

    def _weight(self, choice: str, logprob: float) -> float:
        if not self.by_length:
            return logprob
        return logprob / len(choice) if choice else -math.inf


CHOICE = ChoiceMatch(name="choice", metric="acc")
CHOICE_NORM = ChoiceMatch(name="choice_norm", metric="acc_norm", by_length=True)
