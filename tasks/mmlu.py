"""MMLU: multiple choice in 57 subjects (Hendrycks et al. 2020, arXiv 2009.03300).

- The default has the prompts of `mmlu` 2 (its subtasks are 1.0) of lm-evaluation-harness 0.4.13,
  with the paper's five examples, the first of the subject's development rows; `--shots 0` is what
  lm-eval does when not told otherwise. The letters are scored, every question counts the same.
- `generative`: `mmlu_generative` 3 of the same. The same prompts, but the model writes, and its
  first line must be the letter; beside it `choice`, which also reads "The answer is (B)".
- `medical`: the 2,739 questions of twelve subjects that the ASFT project calls MMLU, asked and
  decided as that project does (`harness.scorers.asft`). Never to be compared with MMLU itself.
- `cs336`: the CS336 course, an instruction in a prompt that is a conversation, with `cs336_mmlu`
  as its lineage reads the answer and `choice` beside it. The published run read the questions
  with pandas, which turned a few options into other numbers or `nan`; here they are as they are.

One row:

    {"question": "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over \
Q.", "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1}
"""

from __future__ import annotations

from dataclasses import replace

from harness.datasets import choice_texts, gold_index, text
from harness.scorers import (
    ASFT,
    ASFT_LOGSUMEXP,
    CHOICE,
    CHOICE_TEXT,
    CS336_MMLU,
    FIRST_LINE,
)
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Sample, SamplingParams
from tasks.asft_prompt import LETTERS, SPELLINGS, TOP_TOKENS, asft_prompt
from tasks.cs336_prompt import STOP, cs336_prompt

MEDICAL_SUBJECTS = (
    *("anatomy", "clinical_knowledge", "college_biology", "college_chemistry", "college_medicine"),
    *("high_school_biology", "high_school_psychology", "human_aging", "medical_genetics"),
    *("nutrition", "professional_medicine", "virology"),
)


def to_sample(row: Row, index: int) -> Sample:
    prompt = "\n".join([text(row, "question").strip(), *_options(row), "Answer:"])
    return _sample(row, index, prompt, LETTERS)


def medical_sample(row: Row, index: int) -> Sample:
    prompt = asft_prompt(text(row, "question"), _choices(row))
    return _sample(row, index, prompt, SPELLINGS)


def cs336_sample(row: Row, index: int) -> Sample:
    subject = text(row, "subject").replace("_", " ")
    instruction = (
        f"Answer the following multiple choice question about {subject}. Respond with a single "
        'sentence of the form "The correct answer is _", filling the blank with the letter '
        "corresponding to the correct answer (i.e., A, B, C or D)."
    )
    question = "\n".join([f"Question: {text(row, 'question')}", *_options(row), "Answer:"])
    return _sample(row, index, cs336_prompt(f"{instruction}\n\n{question}"), LETTERS)


def _sample(row: Row, index: int, prompt: str, choices: tuple[str, ...]) -> Sample:
    subject = text(row, "subject")
    return Sample(
        id=f"{subject}-{index}",
        input=prompt,
        target=LETTERS[gold_index(row["answer"], len(LETTERS))],
        choices=choices,
        group=subject,
    )


def _choices(row: Row) -> tuple[str, ...]:
    return choice_texts(row["choices"], len(LETTERS))


def _options(row: Row) -> list[str]:
    return [f"{letter}. {choice}" for letter, choice in zip(LETTERS, _choices(row), strict=True)]


def description(sample: Sample) -> str:
    subject = sample.group.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


LM_EVAL = Task(
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
)
GENERATIVE = replace(
    LM_EVAL,
    variant="generative",
    title="MMLU, 57 subjects, 5-shot, written answers",
    source="lm-evaluation-harness 0.4.13, mmlu_generative 3, with --num_fewshot 5",
    kind="generate",
    scorers=(FIRST_LINE, CHOICE_TEXT),
    sampling=SamplingParams(max_tokens=256, stop=("</s>", "\n")),
)
CS336 = replace(
    LM_EVAL,
    variant="cs336",
    title="MMLU, 57 subjects, 0-shot in a written-out conversation",
    source="CS336 assignment 5, supplement",
    to_sample=cs336_sample,
    kind="generate",
    scorers=(CS336_MMLU, CHOICE_TEXT),
    sampling=SamplingParams(max_tokens=128, stop=(STOP,)),
    fewshot=None,
    description=None,
)
MEDICAL = replace(
    LM_EVAL,
    variant="medical",
    version=2,
    title="MMLU, 12 medical subjects, one token",
    source="ASFT medical evaluation, mmlu_medical_test",
    dataset=Dataset(path="cais/mmlu", config="+".join(MEDICAL_SUBJECTS), split="test"),
    to_sample=medical_sample,
    scorers=(ASFT, ASFT_LOGSUMEXP),
    top_tokens=TOP_TOKENS,
    offline="mmlu_medical.jsonl",
    fewshot=None,
    description=None,
)
TASKS = (LM_EVAL, GENERATIVE, MEDICAL, CS336)
