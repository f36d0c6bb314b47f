r"""MATH-500: 500 of the 5,000 test problems of MATH (Hendrycks et al. 2021, arXiv 2103.03874), as
drawn for "Let's Verify Step by Step" (Lightman et al. 2023, arXiv 2305.20050).

The default is `hendrycks_math500` (1.0) of lm-evaluation-harness 0.4.13, the other variants are
those of `tasks.math_protocols`; `math:qwen` is what Qwen2.5-Math and ASFT call math_oai.

One row:

    {"problem": "Evaluate $\\log_264$.", "solution": "Note that $\\log_264=y$ can be rewritten as \
$2^y=64$. …, or $\\boxed{6}$.", "answer": "6", "subject": "Algebra", "level": 2,
     "unique_id": "test/algebra/1255.json"}
"""

from __future__ import annotations

from harness.datasets import text
from harness.task import Row, Task
from harness.types import Dataset, Sample
from tasks.math_protocols import LM_EVAL, boxed_answer, math_variants


def to_sample(row: Row, index: int) -> Sample:
    return Sample(
        id=text(row, "unique_id"),
        input=text(row, "problem"),
        target=boxed_answer(text(row, "solution")),
        group=text(row, "subject"),
        tags=(f"level {row['level']}",),
    )


BARE = Task(
    name="math",
    version=1,
    title="MATH-500",
    source=LM_EVAL.source,
    dataset=Dataset(path="HuggingFaceH4/MATH-500", split="test"),
    columns=("problem", "solution", "subject", "level", "unique_id"),
    to_sample=to_sample,
    kind="generate",
    scorers=LM_EVAL.scorers,
    offline="math.jsonl",
)
TASKS = math_variants(BARE)
