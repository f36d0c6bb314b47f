"""MedMCQA: questions of Indian medical entrance examinations (Pal et al. 2022, arXiv 2203.14371).

The default is `medmcqa` of lm-evaluation-harness 0.4.13: the validation split, since the test
split has no answers; no examples, the letters are scored.

One row:

    {"id": "acc7b73e-20f6-40c7-b831-d8b45a8f38fb", "question": "Poor prognostic indicator of ALL \
is –", "opa": "Female sex", "opb": "Leukocyte count < 50,000", "opc": "Age greater than 1 year",
     "opd": "Hypodiploidy", "cop": 3, "choice_type": "multi", "exp": "Prognostic factors in ALL",
     "subject_name": "Pediatrics", "topic_name": null}
"""

from __future__ import annotations

from harness.datasets import gold_index, text
from harness.scorers import CHOICE, CHOICE_NORM
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Sample

HUB_ID = "openlifescienceai/medmcqa"
OPTIONS = {"A": "opa", "B": "opb", "C": "opc", "D": "opd"}
LETTERS = tuple(OPTIONS)


def to_sample(row: Row, index: int) -> Sample:
    lines = [f"{letter}. {text(row, column)}" for letter, column in OPTIONS.items()]
    return Sample(
        id=text(row, "id"),
        input="\n".join([f"Question: {text(row, 'question')}", "Choices:", *lines, "Answer:"]),
        target=LETTERS[gold_index(row["cop"], len(LETTERS))],
        choices=LETTERS,
    )


TASKS = (
    Task(
        name="medmcqa",
        version=1,
        title="MedMCQA",
        source="lm-evaluation-harness 0.4.13, medmcqa",
        dataset=Dataset(path=HUB_ID, split="validation"),
        columns=("id", "question", *OPTIONS.values(), "cop"),
        to_sample=to_sample,
        kind="choose",
        # The letters are equally long, so the two agree; lm-eval reports both.
        scorers=(CHOICE, CHOICE_NORM),
        offline="medmcqa.jsonl",
        fewshot=FewShot(dataset=Dataset(path=HUB_ID, split="train"), n=0),
    ),
)
