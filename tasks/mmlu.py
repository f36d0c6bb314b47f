"""MMLU: multiple choice in 57 subjects (Hendrycks et al. 2020, arXiv 2009.03300).

The prompts of `mmlu` 2 (its subtasks are 1.0) of lm-evaluation-harness 0.4.13, with the paper's
five examples, the first of the subject's development rows; `--shots 0` is what lm-eval does when
not told otherwise. The letters are scored, and every question counts the same.

One row:

    {"question": "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over \
Q.", "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1}
"""

from __future__ import annotations

from harness.datasets import choice_texts, gold_index, text
from harness.scorers import CHOICE
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Sample

LETTERS = ("A", "B", "C", "D")


def to_sample(row: Row, index: int) -> Sample:
    subject = text(row, "subject")
    choices = choice_texts(row["choices"], len(LETTERS))
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return Sample(
        id=f"{subject}-{index}",
        input="\n".join([text(row, "question").strip(), *lines, "Answer:"]),
        target=LETTERS[gold_index(row["answer"], len(LETTERS))],
        choices=LETTERS,
        group=subject,
    )


def description(sample: Sample) -> str:
    subject = sample.group.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


TASKS = (
    Task(
        name="mmlu",
        version=1,
        title="MMLU, 57 subjects, 5-shot",
        source="lm-evaluation-harness 0.4.13, mmlu 2, with --num_fewshot 5",
        dataset=Dataset(path="cais/mmlu", config="all", split="test"),
        columns=("question", "subject", "choices", "answer"),
        to_sample=to_sample,
        kind="choose",
        scorers=(CHOICE,),
        offline="mmlu.jsonl",
        fewshot=FewShot(
            dataset=Dataset(path="cais/mmlu", config="all", split="dev"),
            n=5,
            rule="first",
            by_group=True,
        ),
        description=description,
    ),
)
