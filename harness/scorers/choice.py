"""Multiple choice by log-probability, as lm-evaluation-harness 0.4.13 decides it."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        logprobs = completion.choice_logprobs
        weights = self._weights(sample.choices, logprobs)
        # Reversed, equals keep their order: the first wins.
        best, *others = sorted(range(len(weights)), key=weights.__getitem__, reverse=True)
        if max(logprobs) == UNLISTED:
            return self._unread()
        chosen = sample.choices[best]
        explanation = f"{chosen!r} at {logprobs[best]:.3f} nats"
        if others:
            second = others[0]
            explanation += f", next {sample.choices[second]!r} at {logprobs[second]:.3f}"
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

    def _weights(self, choices: Sequence[str], logprobs: Sequence[float]) -> list[float]:
        if len(choices) != len(logprobs):
            raise ValueError(f"{len(logprobs)} log-probabilities for {len(choices)} choices")
        if not self.by_length:
            return list(logprobs)
        pairs = zip(choices, logprobs, strict=True)
        return [value / len(choice) if choice else -math.inf for choice, value in pairs]


CHOICE = ChoiceMatch(name="choice_logprob", metric="acc")
CHOICE_NORM = ChoiceMatch(name="choice_logprob_norm", metric="acc_norm", by_length=True)
