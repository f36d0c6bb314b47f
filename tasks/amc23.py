r"""AMC 2023: the 40 problems of AMC 12A and 12B that have a number as answer, as Qwen2.5-Math asks
them. The choices are not shown.

One row (answers are stored as floating-point numbers):

    {"id": 0, "answer": 27.0, "url": "https://artofproblemsolving.com/wiki/index.php/\
2023_AMC_12A_Problems/Problem_1", "question": "Cities $A$ and $B$ are $45$ miles apart. … How many \
miles from City $A$ will they be when they meet?"}
"""

from __future__ import annotations

from harness.datasets import text
from harness.errors import DataError
from harness.task import Row, Task
from harness.types import Dataset, Sample
from tasks.math_protocols import QWEN, asked_as


def to_sample(row: Row, index: int) -> Sample:
    return Sample(
        id=f"amc23-{index}", input=text(row, "question"), target=whole_number(row["answer"])
    )


def whole_number(value: object) -> str:
    """The digits of a whole number, which may be stored as 27.0.

    Raises DataError for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise DataError(f"the answer should be a whole number, but is {value!r}")
    return str(int(value))


BARE = Task(
    name="amc23",
    version=1,
    title="AMC 2023",
    source=QWEN.source,
    dataset=Dataset(path="math-ai/amc23", split="test"),
    columns=("question", "answer"),
    to_sample=to_sample,
    kind="generate",
    scorers=QWEN.scorers,
    offline="amc23.jsonl",
)
TASKS = (asked_as(QWEN, BARE, variant=""),)
