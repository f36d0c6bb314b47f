"""`math`: the strict grader of competition mathematics; exact, and quick enough for training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from harness.scorers.equivalence import decide
from harness.scorers.extraction import boxed_answer, final_answer
from harness.scorers.math_pool import Verdict, prepare, verdict
from harness.scorers.thinking import visible_answer
from harness.types import Completion, Sample, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class MathMatch:
    """The final answer of an output (`extraction.final_answer`) against the target's; thinking text
    is not read.

    `equivalence.decide` settles nearly all pairs; the rest goes to math-verify in a worker process
    with a time limit, past which two answers are not equal.
    """

    name: str = "math"
    metric: str = "acc"
    version: int = 1

    def prepare(self) -> None:
        prepare("math")

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        self.prepare()
        text = visible_answer(sample, completion)
        answer = None if text is None else final_answer(text)
        gold = gold_answer(sample.target)
        found = Verdict(False, "no answer") if answer is None else compare(answer, gold)
        return Score(
            value=float(found.equal),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"expected {gold!r}" + (f": {found.why}" if found.why else ""),
        )


def compare(answer: str, gold: str) -> Verdict:
    """Whether two answers are equal by the strict rules; `why` where no rule could tell.

    >>> compare(r"\\frac{3}{6}", "0.5")
    Verdict(equal=True, why='')
    """
    decided = decide(answer, gold)
    return verdict("math", answer, gold) if decided is None else Verdict(decided)


def compare_all(pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """`compare` for many pairs of answer and gold answer, with a worker process per processor."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [*threads.map(lambda pair: compare(*pair), pairs)]


def gold_answer(target: str) -> str:
    r"""The answer in a target that may be a whole solution with a `\boxed` answer."""
    boxed = boxed_answer(target) if "\\boxed" in target else None
    return target if boxed is None else boxed


MATH = MathMatch()
