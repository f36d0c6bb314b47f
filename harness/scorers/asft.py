"""Medical multiple choice as the ASFT project decides it: by the likeliest first tokens.

That project generates one token greedily with the ten likeliest log-probabilities and takes the
letter of the best of those that read as A to D without regard to case and spaces. Two spellings of
a letter (` A` and the article ` a`) overwrite each other, so that the less likely one counts. Where
none of the ten is a letter, the first of A, B, C, D in the generated token is taken, and otherwise
A. `asft` does the same, so that published numbers can be reproduced: an answer that fell back to A
is right where A is right. But nothing was read then: it is a parse failure.

`asft_logsumexp` beside it is repaired: the log-probabilities of ` A` to ` D` and ` a` to ` d` are
asked for whatever their rank, and those of one letter are added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import DataError
from harness.types import UNLISTED, Completion, Sample, Score

_LETTERS = ("A", "B", "C", "D")

Spellings = Sequence[tuple[str, float]]  # with log-probabilities in nats


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelyLetter:
    """The letter of the likeliest first tokens by the published rule, with its fallbacks."""

    name: str = "asft"
    metric: str = "acc"
    version: int = 2

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        if not completion.top_tokens:
            raise DataError(
                f"the answer to `{sample.id}` does not tell the likeliest first tokens",
                "it was asked by another version of the task: evaluate again with `--fresh`",
            )
        weights = overwritten_spellings(completion.top_tokens)
        written = completion.top_tokens[0][0]
        answer, read = _likeliest(weights), _told(weights)
        if answer is None:
            answer = next((letter for letter in _LETTERS if letter in written), None)
            read = f"none of {len(completion.top_tokens)} tokens is a letter; {written!r} "
            read += "falls back to A" if answer is None else f"holds {answer}"
        return Score(
            value=float((answer or _LETTERS[0]) == sample.target),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=read,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedLetter:
    """The letter with the most probability, whichever way it is spelled."""

    name: str = "asft_logsumexp"
    metric: str = "acc_logsumexp"
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        spelled = zip(sample.choices, completion.choice_logprobs, strict=True)
        weights = summed_spellings([pair for pair in spelled if pair[1] != UNLISTED])
        answer = _likeliest(weights)
        return Score(
            value=float(answer == sample.target),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=_told(weights) or "no letter is among the tokens that the server lists",
        )


def overwritten_spellings(likeliest: Spellings) -> dict[str, float]:
    """Of each letter the last of its spellings, in the order given.

    >>> overwritten_spellings([(" A", -0.5), (" B", -1.0), (" the", -2.0), (" a", -4.0)])
    {'A': -4.0, 'B': -1.0}
    """
    read = ((text.strip().upper(), weight) for text, weight in likeliest)
    return {letter: weight for letter, weight in read if letter in _LETTERS}


def summed_spellings(spelled: Spellings) -> dict[str, float]:
    """Of each letter the logarithm of the sum of the probabilities of its spellings.

    >>> summed_spellings([("A", math.log(0.25)), ("a", math.log(0.25))])["A"] == math.log(0.5)
    True
    """
    by_letter: dict[str, list[float]] = {}
    for text, weight in spelled:
        by_letter.setdefault(text.upper(), []).append(weight)
    return {letter: _logsumexp(weights) for letter, weights in by_letter.items()}


def _logsumexp(weights: Sequence[float]) -> float:
    largest = max(weights)
    if largest == -math.inf:
        return largest
    return largest + math.log(sum(math.exp(weight - largest) for weight in weights))


def _likeliest(weights: Mapping[str, float]) -> str | None:
    return max(weights, key=weights.__getitem__) if weights else None


def _told(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{letter} {weight:.3f}" for letter, weight in weights.items())


ASFT = LikelyLetter()
ASFT_LOGSUMEXP = SummedLetter()
