"""MedMCQA: questions of Indian medical entrance examinations (Pal et al. 2022, arXiv 2203.14371).

- The default is `medmcqa` of lm-evaluation-harness 0.4.13: the validation split, since the test
  split has no answers; no examples, the letters are scored.
- `asft`: the same questions as the ASFT project asks and decides (`harness.scorers.asft`), and
  beside it the repaired `asft_logsumexp`.

One row:

    {"id": "acc7b73e-20f6-40c7-b831-d8b45a8f38fb", "question": "Poor prognostic indicator of ALL \
is –", "opa": "Female sex", "opb": "Leukocyte count < 50,000", "opc": "Age greater than 1 year",
     "opd": "Hypodiploidy", "cop": 3, "choice_type": "multi", "exp": "Prognostic factors in ALL",
     "subject_name": "Pediatrics", "topic_name": null}
"""

from __future__ import annotations

from dataclasses import replace

from harness.datasets import gold_index, text
from harness.scorers import ASFT, ASFT_LOGSUMEXP, CHOICE, CHOICE_NORM
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Sample
from tasks.asft_prompt import LETTERS, SPELLINGS, TOP_TOKENS, asft_prompt

HUB_ID = "openlifescienceai/medmcqa"
OPTIONS = {"A": "opa", "B": "opb", "C": "opc", "D": "opd"}


def to_sample(row: Row, index: int) -> Sample:
    lines = [f"{letter}. {text(row, column)}" for letter, column in OPTIONS.items()]
    prompt = "\n".join([f"Question: {text(row, 'question')}", "Choices:", *lines, "Answer:"])
    return _sample(row, prompt, LETTERS)


def asft_sample(row: Row, index: int) -> Sample:
    options = [text(row, column) for column in OPTIONS.values()]
    return _sample(row, asft_prompt(text(row, "question"), options), SPELLINGS)


def _sample(row: Row, prompt: str, choices: tuple[str, ...]) -> Sample:
    return Sample(
        id=text(row, "id"),
        input=prompt,
        target=LETTERS[gold_index(row["cop"], len(LETTERS))],
        choices=choices,
    )


LM_EVAL = Task(
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
)
ASFT_PROTOCOL = replace(
    LM_EVAL,
    variant="asft",
    version=2,
    title="MedMCQA, one token",
    source="ASFT medical evaluation, medmcqa_test",
    to_sample=asft_sample,
    scorers=(ASFT, ASFT_LOGSUMEXP),
    top_tokens=TOP_TOKENS,
    fewshot=None,
)
TASKS = (LM_EVAL, ASFT_PROTOCOL)
