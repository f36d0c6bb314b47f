"""`math_verify`: the verdict of math-verify 0.9 on the whole output, as lm-eval asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.scorers.extraction import final_answer
from harness.scorers.math_pool import verdict
from harness.types import Completion, Sample, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class MathVerifyMatch:
    """math-verify finds the answer in the output and in the target itself, with its defaults.

    The answer in the Score is what `extraction.final_answer` reads, for the reader only. Where
    math-verify would take longer than the time limit, the verdict is "not equal".
    """

    name: str = "math_verify"
    metric: str = "math_verify"
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        found = verdict("math_verify", completion.text, sample.target)
        return Score(
            value=float(found.equal),
            answer=final_answer(completion.text),
            grader=self.name,
            version=self.version,
            explanation=f"expected {sample.target!r}" + (f": {found.why}" if found.why else ""),
        )


MATH_VERIFY = MathVerifyMatch()
