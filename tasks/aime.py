r"""AIME 2024 and 2025: the 30 problems of each year, whose answers are whole numbers below 1,000.

The default is the protocol of Qwen2.5-Math. `lm_eval` is `aime24` and `aime25` (0.0) of
lm-evaluation-harness 0.4.13: no examples, up to 32,768 tokens, a box wins over what stands between
dollar signs.

Some LaTeX commands have become control characters upstream: a form feed and `rac`, a tab and
`riangle` (AIME 2024 I-1, I-15, II-8; AIME 2025 rows 18, 19, 27). The default repairs them; the
variant `lm_eval` asks the rows as they are, like lm-eval.

One row of each:

    {"ID": "2024-II-4", "Problem": "Let $x,y$ and $z$ be positive real numbers that satisfy the \
following system of equations: …", "Solution": "Denote $\\log_2(x) = a$, …", "Answer": 33}

    {"problem": "Find the sum of all integer bases $b>9$ for which $17_b$ is a divisor of \
$97_b.$", "answer": "70", "id": "0"}
"""

from __future__ import annotations

import re
from dataclasses import replace

from harness.datasets import text
from harness.errors import DataError
from harness.scorers import AIME
from harness.scorers.strict import STRICT
from harness.task import Row, Task
from harness.types import Dataset, Sample, SamplingParams
from tasks.math_protocols import QWEN, Protocol, asked_as, qwen_prompt

_LETTER = {"\f": "\\f", "\t": "\\t"}


def repaired(problem: str) -> str:
    r"""The text with its LaTeX commands, where their first letter was taken for an escape.

    >>> repaired("$\frac12$ of \triangle ABC")
    '$\\frac12$ of \\triangle ABC'
    """
    # In I-15 the backslash is still there.
    return re.sub(r"\\?([\f\t])(?=[a-z])", lambda escape: _LETTER[escape[1]], problem)


def to_sample_2024(row: Row, index: int) -> Sample:
    return Sample(id=text(row, "ID"), input=text(row, "Problem"), target=answer(row["Answer"]))


def to_sample_2025(row: Row, index: int) -> Sample:
    return Sample(id=f"aime25-{index}", input=text(row, "problem"), target=answer(row["answer"]))


def answer(value: object) -> str:
    """Raises DataError for what is no whole number, as a number or in digits."""
    if isinstance(value, bool) or not re.fullmatch("[0-9]+", str(value)):
        raise DataError(f"the answer should be a whole number, but is {value!r}")
    return str(value)


def question_prompt(problem: str) -> str:
    return f"Question: {problem}\nAnswer:"


LM_EVAL = Protocol(
    variant="lm_eval",
    title="lm-eval, 0-shot",
    source="lm-evaluation-harness 0.4.13, aime24 and aime25 0.0",
    prompt=question_prompt,
    scorers=(AIME, STRICT),
    sampling=SamplingParams(
        max_tokens=32_768, stop=("Question:", "</s>", "<|im_end|>", "<|eot_id|>")
    ),
)
REPAIRED_QWEN = replace(QWEN, prompt=lambda problem: qwen_prompt(repaired(problem)))

AIME24 = Task(
    name="aime24",
    version=1,
    title="AIME 2024",
    source=QWEN.source,
    # All 30 problems are in the split `train`.
    dataset=Dataset(path="Maxwell-Jia/AIME_2024", split="train"),
    columns=("ID", "Problem", "Answer"),
    to_sample=to_sample_2024,
    kind="generate",
    scorers=QWEN.scorers,
    offline="aime24.jsonl",
)
AIME25 = replace(
    AIME24,
    name="aime25",
    title="AIME 2025",
    dataset=Dataset(path="math-ai/aime25", split="test"),
    columns=("problem", "answer"),
    to_sample=to_sample_2025,
    offline="aime25.jsonl",
)
TASKS = tuple(
    task
    for bare in (AIME24, AIME25)
    for task in (asked_as(REPAIRED_QWEN, bare, variant=""), asked_as(LM_EVAL, bare))
)
