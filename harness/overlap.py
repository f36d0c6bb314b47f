"""Questions of a benchmark that stand in training data: exactly, or by thirteen words in a row.

Texts are compared as lower-case words without punctuation. What all questions of a task have in
common at their beginning and end is its prompt, not the question, and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path
from typing import Literal

from harness.errors import DataError
from harness.lm_eval_task import is_lm_eval
from harness.questions import questions
from harness.task import Task
from harness.types import JSON, Prompt

N_WORDS = 13
# Shorter ones are looked for as whole prompts only: "what is 2 2" stands in many a text.
FEWEST_WORDS = 6

_WORD = re.compile(r"\w+")

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One question found in the training data. share: of its 13-word windows that were found, 1.0
    for an exact match. example: the first that holds it, counted from 0."""

    task: str
    sample_id: str
    kind: Literal["exact", "ngram"]
    share: float
    example: int


@dataclass(slots=True)
class _Question:
    task: str
    sample_id: str
    words: Words
    found: set[Words] = field(default_factory=set)
    exact: bool = False
    example: int = -1


def overlaps(
    tasks: Sequence[Task], texts: Iterable[tuple[str, str]], *, data_root: Path | None = None
) -> list[Overlap]:
    """The questions of the tasks that stand in the texts.

    texts: question and answer of each training example, as they stood in the data.
    Raises DataError where the questions of a task cannot be had.
    """
    asked = [question for task in tasks for question in _questions(task, data_root)]
    return list(_found(asked, texts))


def _questions(task: Task, data_root: Path | None) -> list[_Question]:
    if is_lm_eval(task):
        raise DataError(
            f"the questions of `{task.id}` are lm-eval's and cannot be compared here",
            "`--set data.overlap=skip`, or judge on a task of this project",
        )
    try:
        samples = questions(task, data_root=data_root, shots=0).samples
    except DataError as error:
        raise DataError(
            f"the training data cannot be compared with `{task.id}`: {error.message}",
            f"{error.hint}; or `--set data.overlap=skip` trains without the comparison",
        ) from None
    words = [tuple(_WORD.findall(_text(sample.input).casefold())) for sample in samples]
    before, after = frame(words)
    return [
        _Question(task.id, sample.id, own[before : len(own) - after])
        for sample, own in zip(samples, words, strict=True)
    ]


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)


def frame(texts: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many words all texts begin and end with: the prompt around the questions.

    >>> frame([["q", "why", "a"], ["q", "who", "is", "a"]])
    (1, 1)
    """
    if len(set(map(tuple, texts))) < 2:
        return 0, 0
    before = len(_common([list(text) for text in texts]))
    rest = [list(reversed(text[before:])) for text in texts]
    return before, len(_common(rest))


def _common(texts: list[list[str]]) -> list[str]:
    return list(commonprefix(texts))  # noqa: RUF071 — of lists, which it is made for too


def _found(asked: list[_Question], texts: Iterable[tuple[str, str]]) -> Iterator[Overlap]:
    windows = _index(asked)
    whole = {question.words: question for question in asked}
    lengths = sorted({len(window) for window in windows})
    for example, (prompt, answer) in enumerate(texts):
        in_prompt = tuple(_WORD.findall(prompt.casefold()))
        if in_prompt in whole:
            _hit(whole[in_prompt], in_prompt, example).exact = True
        for words in (in_prompt, tuple(_WORD.findall(answer.casefold()))):
            for window in _windows(words, lengths):
                for question in windows.get(window, ()):
                    _hit(question, window, example)
    for question in asked:
        if question.exact or question.found:
            yield _overlap(question)


def _index(asked: list[_Question]) -> dict[Words, list[_Question]]:
    """Every window of thirteen words, and shorter questions whole, with the questions that have
    them."""
    windows: dict[Words, list[_Question]] = {}
    for question in asked:
        if len(question.words) >= FEWEST_WORDS:
            size = min(N_WORDS, len(question.words))
            for window in set(_windows(question.words, [size])):
                windows.setdefault(window, []).append(question)
    return windows


def _windows(words: Words, lengths: Sequence[int]) -> Iterator[Words]:
    for size in lengths:
        for start in range(len(words) - size + 1):
            yield words[start : start + size]


def _hit(question: _Question, window: Words, example: int) -> _Question:
    question.found.add(window)
    if question.example < 0:
        question.example = example
    return question


def _overlap(question: _Question) -> Overlap:
    size = min(N_WORDS, max(1, len(question.words)))
    every = set(_windows(question.words, [size]))
    share = 1.0 if question.exact else len(question.found & every) / len(every)
    return Overlap(
        task=question.task,
        sample_id=question.sample_id,
        kind="exact" if share == 1.0 else "ngram",
        share=share,
        example=question.example,
    )


def as_row(overlap: Overlap) -> JSON:
    return {
        "task": overlap.task,
        "sample_id": overlap.sample_id,
        "kind": overlap.kind,
        "share": overlap.share,
        "example": overlap.example,
    }
