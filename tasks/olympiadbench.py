r"""OlympiadBench: olympiad problems (He et al. 2024, arXiv 2402.14008); here the 675 in English, of
mathematics, open-ended and without images that Qwen2.5-Math evaluates.

The reference is the first final answer of a row without the dollar signs around it, as there. 103
rows have several answers, a tuple or an interval in it (`1,3,5`, `$69$,$84$`).

One row:

    {"id": 1606, "question": "Xenia and Sergey play the following game. Xenia thinks of a positive \
integer $N$ not exceeding 5000. … How many moves does Sergey need to determine for sure the number \
Xenia thought of?", "answer": "2"}
"""

from __future__ import annotations

from harness.datasets import text
from harness.task import Row, Task
from harness.types import Dataset, Sample
from tasks.math_protocols import QWEN, asked_as


def to_sample(row: Row, index: int) -> Sample:
    return Sample(
        id=f"olympiadbench-{row['id']}",
        input=text(row, "question"),
        target=text(row, "answer").strip("$"),
    )


BARE = Task(
    name="olympiadbench",
    version=1,
    title="OlympiadBench",
    source=QWEN.source,
    dataset=Dataset(path="math-ai/olympiadbench", split="test"),
    columns=("id", "question", "answer"),
    to_sample=to_sample,
    kind="generate",
    scorers=QWEN.scorers,
    offline="olympiadbench.jsonl",
)
TASKS = (asked_as(QWEN, BARE, variant=""),)
