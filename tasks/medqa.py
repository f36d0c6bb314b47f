"""MedQA: questions in the style of the US medical licensing examination, four options (Jin et al.
2020, arXiv 2009.13081).

- The default is `medqa_4options` of lm-evaluation-harness 0.4.13: no examples, the letters are
  scored. With `--shots`, examples are drawn from the training split.
- `asft`: as the ASFT project asks and decides (`harness.scorers.asft`), and beside it the repaired
  `asft_logsumexp`.

One row:

    {"id": "test-00996", "sent1": "The only immunoglobulin found as a dimer has what primary \
function?", "sent2": "", "ending0": "Protect against invasive helminth infection",
     "ending1": "Protect against viral infections", "ending2": "Inhibiting bacterial adherance and \
colonization of mucous membranes", "ending3": "Provides the most specific recognition to \
circulating antigens in the bloodstream", "label": 2}
"""

from __future__ import annotations

from dataclasses import replace

from harness.datasets import gold_index, text
from harness.scorers import ASFT, ASFT_LOGSUMEXP, CHOICE, CHOICE_NORM
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Sample
from tasks.asft_prompt import LETTERS, SPELLINGS, TOP_TOKENS, asft_prompt

HUB_ID = "GBaker/MedQA-USMLE-4-options-hf"
OPTIONS = {"A": "ending0", "B": "ending1", "C": "ending2", "D": "ending3"}


def to_sample(row: Row, index: int) -> Sample:
    lines = [f"{letter}. {text(row, column)}" for letter, column in OPTIONS.items()]
    prompt = "\n".join([f"Question: {text(row, 'sent1')}", *lines, "Answer:"])
    return _sample(row, prompt, LETTERS)


def asft_sample(row: Row, index: int) -> Sample:
    options = [text(row, column) for column in OPTIONS.values()]
    return _sample(row, asft_prompt(text(row, "sent1"), options), SPELLINGS)


def _sample(row: Row, prompt: str, choices: tuple[str, ...]) -> Sample:
    return Sample(
        id=text(row, "id"),
        input=prompt,
        target=LETTERS[gold_index(row["label"], len(LETTERS))],
        choices=choices,
    )


LM_EVAL = Task(
    name="medqa",
    version=1,
    title="MedQA (USMLE), 4 options",
    source="lm-evaluation-harness 0.4.13, medqa_4options",
    dataset=Dataset(path=HUB_ID, split="test"),
    columns=("id", "sent1", *OPTIONS.values(), "label"),
    to_sample=to_sample,
    kind="choose",
    # The letters are equally long, so the two agree; lm-eval reports both.
    scorers=(CHOICE, CHOICE_NORM),
    offline="medqa.jsonl",
    fewshot=FewShot(dataset=Dataset(path=HUB_ID, split="train"), n=0),
)
ASFT_PROTOCOL = replace(
    LM_EVAL,
    variant="asft",
    version=2,
    title="MedQA (USMLE), 4 options, one token",
    source="ASFT medical evaluation, medqa_test",
    to_sample=asft_sample,
    scorers=(ASFT, ASFT_LOGSUMEXP),
    top_tokens=TOP_TOKENS,
    fewshot=None,
)
TASKS = (LM_EVAL, ASFT_PROTOCOL)
