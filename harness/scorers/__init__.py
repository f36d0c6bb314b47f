"""Graders: pure functions from (sample, completion) to a Score, each one a frozen value.

A grader that bears the name of another project gives that project's verdict on every input, its
oddities included, since a number that is compared with a published one must be graded like it.
"""

from __future__ import annotations

from harness.errors import UsageError, did_you_mean
from harness.scorers.asft import ASFT, ASFT_LOGSUMEXP
from harness.scorers.choice import CHOICE, CHOICE_NORM
from harness.scorers.drgrpo import DRGRPO_FAST, DRGRPO_SLOW
from harness.scorers.free_choice import CHOICE_TEXT, CS336_MMLU, FIRST_LINE
from harness.scorers.gsm8k import GSM8K_COT_STRICT, GSM8K_FLEXIBLE, GSM8K_STRICT
from harness.scorers.hendrycks import AIME, HENDRYCKS, last_boxed
from harness.scorers.math import MATH
from harness.scorers.math_verify import MATH_VERIFY
from harness.scorers.minerva import MINERVA
from harness.scorers.number import BOXED_NUMBER, CS336_GSM8K, NUMBER
from harness.scorers.qwen import QWEN, QWEN_UNITS
from harness.scorers.r1_zero import QUESTION_ONLY, R1_ZERO, R1_ZERO_STRICT
from harness.scorers.tags import R1_ZERO_FORMAT
from harness.task import Scorer
from harness.types import Completion, Sample, Score

__all__ = [
    "AIME",
    "ASFT",
    "ASFT_LOGSUMEXP",
    "BOXED_NUMBER",
    "CHOICE",
    "CHOICE_NORM",
    "CHOICE_TEXT",
    "CS336_GSM8K",
    "CS336_MMLU",
    "DRGRPO_FAST",
    "DRGRPO_SLOW",
    "FIRST_LINE",
    "GRADERS",
    "GSM8K_COT_STRICT",
    "GSM8K_FLEXIBLE",
    "GSM8K_STRICT",
    "HENDRYCKS",
    "MATH",
    "MATH_VERIFY",
    "MINERVA",
    "NUMBER",
    "QUESTION_ONLY",
    "QWEN",
    "QWEN_UNITS",
    "R1_ZERO",
    "R1_ZERO_FORMAT",
    "R1_ZERO_STRICT",
    "grade",
    "last_boxed",
]

_TEXT_GRADERS: tuple[Scorer, ...] = (
    *(GSM8K_STRICT, GSM8K_FLEXIBLE, GSM8K_COT_STRICT, NUMBER, BOXED_NUMBER, CS336_GSM8K),
    *(CHOICE_TEXT, CS336_MMLU, FIRST_LINE),
    *(R1_ZERO, R1_ZERO_STRICT, R1_ZERO_FORMAT, QUESTION_ONLY),
)
_MATH_GRADERS: tuple[Scorer, ...] = (
    *(HENDRYCKS, AIME, MATH, MATH_VERIFY, MINERVA),
    *(QWEN, QWEN_UNITS, DRGRPO_FAST, DRGRPO_SLOW),
)
GRADERS: dict[str, Scorer] = {scorer.name: scorer for scorer in (*_TEXT_GRADERS, *_MATH_GRADERS)}


def grade(name: str, output: str, target: str) -> Score:
    """What the named text grader gives to one output.

    Raises UsageError for a name that is not in GRADERS.

    >>> grade("gsm8k_strict", "3 * 6 = 18\\n#### 18", "... #### 18").value
    1.0
    >>> grade("gsm8k_flexible", "about $1,050.", "#### 1050").answer
    '1050'
    """
    if name not in GRADERS:
        known = ", ".join(f"`{known}`" for known in GRADERS)
        raise UsageError(
            f"unknown grader `{name}`", did_you_mean(name, GRADERS, f"there are {known}")
        )
    completion = Completion(request_id="", text=output, finish_reason="stop", prompt_tokens=0)
    return GRADERS[name](Sample(id="", input="", target=target), completion)
