r"""MATH: competition problems of seven subjects with worked solutions (Hendrycks et al. 2021,
arXiv 2103.03874), all 5,000 test problems.

The default is `hendrycks_math` (1.0) of lm-evaluation-harness 0.4.13, the other variants are those
of `tasks.math_protocols`. `minerva_math`, the name that lm-eval gives to the Minerva prompt on
these problems, is the same protocol as `hendrycks_math:minerva`. The 272 problems that Qwen2.5-Math
calls minerva_math are `minerva_ocw`. Training splits are left alone: they are what models are
tuned on.

One row:

    {"problem": "How many vertical asymptotes does the graph of $y=\\frac{2}{x^2+x-6}$ have?",
     "level": "Level 3", "type": "Algebra", "solution": "The denominator of the rational function \
factors into $x^2+x-6=(x-2)(x+3)$. …  Therefore, the graph has $\\boxed{2}$ vertical asymptotes."}
"""

from __future__ import annotations

from dataclasses import replace

from harness.datasets import text
from harness.task import Row, Task
from harness.types import Dataset, Sample
from tasks.math_protocols import (
    LM_EVAL,
    MINERVA,
    asked_as,
    boxed_answer,
    math_variants,
    with_solutions,
)

# The order in which lm-eval's group lists them.
SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)


def to_sample(row: Row, index: int) -> Sample:
    return Sample(
        # Rows have no id of their own; the place counts over all subjects.
        id=f"hendrycks_math-{index}",
        input=text(row, "problem"),
        target=boxed_answer(text(row, "solution")),
        group=text(row, "type"),
        tags=(text(row, "level").lower(),),
    )


BARE = Task(
    name="hendrycks_math",
    version=1,
    title="MATH",
    source=LM_EVAL.source,
    dataset=Dataset(path="EleutherAI/hendrycks_math", config="+".join(SUBJECTS), split="test"),
    columns=("problem", "level", "solution", "type"),
    to_sample=to_sample,
    kind="generate",
    scorers=LM_EVAL.scorers,
    offline="hendrycks_math.jsonl",
)
TASKS = (
    *math_variants(BARE),
    asked_as(MINERVA, with_solutions(replace(BARE, name="minerva_math")), variant=""),
)
