r"""Minerva OCW: 272 problems of MIT OpenCourseWare in science and mathematics (Lewkowycz et al.
2022, arXiv 2206.14858), which Qwen2.5-Math and ASFT call minerva_math.

They have nothing to do with `minerva_math`, which asks the problems of MATH with Minerva's prompt.
The protocol is that of Qwen2.5-Math; answers keep their units there.

One row:

    {"question": "Each of the two Magellan telescopes has a diameter of $6.5 \\mathrm{~m}$. In one \
configuration the effective focal length is $72 \\mathrm{~m}$. Find the diameter of the image of a \
planet (in $\\mathrm{cm}$ ) at this focus if the angular diameter of the planet at the time of the \
observation is $45^{\\prime \\prime}$.", "answer": "1.6"}
"""

from __future__ import annotations

from dataclasses import replace

from harness.datasets import text
from harness.scorers import QWEN_UNITS
from harness.scorers.strict import STRICT
from harness.task import Row, Task
from harness.types import Dataset, Sample
from tasks.math_protocols import QWEN, asked_as


def to_sample(row: Row, index: int) -> Sample:
    return Sample(
        id=f"minerva_ocw-{index}", input=text(row, "question"), target=text(row, "answer")
    )


BARE = Task(
    name="minerva_ocw",
    version=1,
    title="Minerva OCW",
    source=QWEN.source,
    dataset=Dataset(path="math-ai/minervamath", split="test"),
    columns=("question", "answer"),
    to_sample=to_sample,
    kind="generate",
    scorers=(QWEN_UNITS, STRICT),
    offline="minerva_ocw.jsonl",
    refused=(
        (
            "minerva_ocw-139",
            r"Qwen2.5-Math cuts the answer off at `\text {red}`, which it takes for a unit",
        ),
    ),
)
TASKS = (asked_as(replace(QWEN, scorers=BARE.scorers), BARE, variant=""),)
