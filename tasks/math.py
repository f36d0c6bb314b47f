r"""MATH-500: 500 of the 5,000 test problems of MATH (Hendrycks et al. 2021, arXiv 2103.03874), as
drawn for "Let's Verify Step by Step" (Lightman et al. 2023, arXiv 2305.20050).

The default is `hendrycks_math500` (1.0) of lm-evaluation-harness 0.4.13: no examples, the answer
is what stands between the first and the last dollar sign.

One row:

    {"problem": "Evaluate $\\log_264$.", "solution": "Note that $\\log_264=y$ can be rewritten as \
$2^y=64$. …, or $\\boxed{6}$.", "answer": "6", "subject": "Algebra", "level": 2,
     "unique_id": "test/algebra/1255.json"}
"""

from __future__ import annotations

from harness.datasets import text
from harness.errors import DataError
from harness.scorers import HENDRYCKS, last_boxed
from harness.task import Row, Task
from harness.types import Dataset, Sample, SamplingParams


def to_sample(row: Row, index: int) -> Sample:
    answer = last_boxed(text(row, "solution"))
    if answer is None:
        raise DataError("the solution has no \\boxed answer", "correct the row, or leave it out")
    return Sample(
        id=text(row, "unique_id"),
        input=f"Problem: {text(row, 'problem')}\nAnswer:",
        target=answer,
        group=text(row, "subject"),
    )


TASKS = (
    Task(
        name="math",
        version=1,
        title="MATH-500",
        source="lm-evaluation-harness 0.4.13, hendrycks_math500",
        dataset=Dataset(path="HuggingFaceH4/MATH-500", split="test"),
        columns=("problem", "solution", "subject", "unique_id"),
        to_sample=to_sample,
        kind="generate",
        scorers=(HENDRYCKS,),
        offline="math.jsonl",
        sampling=SamplingParams(max_tokens=256, stop=("Problem:",)),
    ),
)
