r"""`math` beside a published grader: its verdicts, as a metric that can stand next to theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.scorers.hendrycks import last_boxed
from harness.scorers.math import MATH
from harness.types import Completion, Sample, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class StrictMatch:
    """`math` on the last box of the reference, where that is a whole solution.

    So every variant of a benchmark has the same reference, the published one: some solutions box
    an answer twice, `15\\frac{39}{40}` or `\\frac{639}{40}`, and `math` takes two boxes for a list.
    """

    name: str = MATH.name
    metric: str = "acc_strict"
    version: int = MATH.version

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        answer = last_boxed(sample.target)
        return MATH(sample if answer is None else replace(sample, target=answer), completion)


STRICT = StrictMatch()
