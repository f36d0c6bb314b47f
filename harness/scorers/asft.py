"""Medical multiple choice as the ASFT project decides it: by the likeliest first tokens.

That project generates one token with the ten likeliest log-probabilities and takes the letter of
the best of those that read as A to D without regard to case and spaces. Two spellings of a letter
(` A` and the article ` a`) overwrite each other, so that the less likely one counts; where none of
the ten is a letter, the answer is read from the generated token and otherwise is A.

Here the log-probabilities of ` A` to ` D` and ` a` to ` d` are asked for, which differs in this:

- Which of them are among the ten cannot be seen. Those of at least one in a thousand are taken to
  be; the explanation says so where another cut would change the answer.
- A letter without a space before it is not asked for: after a colon, many tokenizers have no such
  token. It matters only where it is among the ten as well.
- Where no letter is likely enough nothing was read, which counts as a parse failure, never as A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.types import Completion, Sample, Score

_AMONG_TEN = math.log(0.001)

Spellings = Sequence[tuple[str, float]]  # with log-probabilities in nats


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterChoice:
    """The letter that `combine` gives the most weight, whichever way it is spelled."""

    name: str
    metric: str
    combine: Callable[[Spellings], Mapping[str, float]]
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        spelled = list(zip(sample.choices, completion.choice_logprobs, strict=True))
        weights = self.combine(spelled)
        answer = max(weights, key=lambda letter: weights[letter]) if weights else None
        read = ", ".join(f"{letter} {weight:.3f}" for letter, weight in weights.items())
        return Score(
            value=float(answer == sample.target),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=(read or "no letter is likely enough") + _doubt(self, spelled, answer),
        )


def likely_spellings(spelled: Spellings, likely_from: float = _AMONG_TEN) -> dict[str, float]:
    """Of each letter the least likely of its likely spellings, the likeliest first.

    >>> likely_spellings([("A", -0.5), ("B", -1.0), ("a", -4.0), ("b", -9.0)])
    {'A': -4.0, 'B': -1.0}
    """
    ranked = sorted(spelled, key=lambda pair: -pair[1])
    return {text.upper(): weight for text, weight in ranked if weight >= likely_from}


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


def _doubt(scorer: LetterChoice, spelled: Spellings, answer: str | None) -> str:
    """Whether the published rule would answer otherwise if other spellings were among the ten."""
    if scorer.combine is not likely_spellings:
        return ""
    for _, cut in spelled:
        weights = likely_spellings(spelled, cut)
        if max(weights, key=lambda letter: weights[letter]) != answer:
            return "; depends on which are among the ten likeliest tokens"
    return ""


ASFT = LetterChoice(name="asft", metric="acc", combine=likely_spellings)
ASFT_LOGSUMEXP = LetterChoice(
    name="asft_logsumexp", metric="acc_logsumexp", combine=summed_spellings
)
