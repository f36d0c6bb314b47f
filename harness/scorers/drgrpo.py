"""The grader of Dr. GRPO (understand-r1-zero), which CS336 uses as its reward: `fast` and `slow`.

An answer is right if it is the same text after Hendrycks' normalisation with MathQA's units, or
equal to sympy, or, if slow, equal to math-verify. False positives come with it (`x + h` for
`x + t`); `math` is the strict grader.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from harness.scorers import mathd
from harness.scorers.math_pool import Verdict, prepare, verdict
from harness.types import Completion, Sample, Score

_MAX_LENGTH = 2_000
_cached_normalised = lru_cache(maxsize=8_192)(mathd.normalised)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrGrpoMatch:
    """The last `\\boxed` of the output, or the whole output where there is none."""

    name: str
    metric: str = "acc"
    version: int = 1

    def prepare(self) -> None:
        prepare(self.name)

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        self.prepare()
        text = completion.text
        answer = boxed(text) if "\\boxed" in text else text
        answer = answer if answer and answer.strip() else None
        found = Verdict(False, "no answer")
        if answer is not None:
            found = compare(answer, sample.target, slow=self.name == "drgrpo_slow")
        return Score(
            value=float(found.equal),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"expected {sample.target!r}" + (f": {found.why}" if found.why else ""),
        )


def compare(answer: str, target: str, *, slow: bool) -> Verdict:
    r"""Whether an answer is right; the target may be a solution with `\boxed` or `####`."""
    gold = reference(target)
    if gold is None:
        return Verdict(False, "no reference answer")
    if answer == gold:
        return Verdict(True)
    if len(answer) > _MAX_LENGTH:
        return Verdict(False, "too long")
    if _cached_normalised(answer) == _cached_normalised(gold):
        return Verdict(True)
    return verdict("drgrpo_slow" if slow else "drgrpo_fast", answer, gold)


def reference(target: str) -> str | None:
    if "\\boxed" in target:
        return boxed(target)
    return target.rpartition("####")[2].strip() if "####" in target else target


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`; None where it has no braces or they do not close."""
    after = text.rpartition("\\boxed")[2]
    if not after.startswith("{"):
        return None
    depth = 0
    for position, character in enumerate(after):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return after[1:position]
    return None


DRGRPO_FAST = DrGrpoMatch(name="drgrpo_fast")
DRGRPO_SLOW = DrGrpoMatch(name="drgrpo_slow")
