"""What is wrong with a file of training examples: before a model learns it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.datasets import load
from harness.errors import DataError, UsageError, did_you_mean
from harness.overlap import Overlap, overlaps
from harness.task import Row, Task
from harness.types import Dataset

PROMPTS = ("prompt", "instruction", "question", "problem", "query")
ANSWERS = ("completion", "response", "answer", "solution", "output", "chosen")
FURTHER = ("rejected",)
SOME = 5
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row: what is asked, what is to be learnt, and (preferences) what is not."""

    prompt: str
    answer: str
    rejected: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Rows (from 1) with one fault. serious: whether nobody could want it."""

    name: str
    count: int
    rows: tuple[int, ...]
    serious: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOverlap:
    """Questions of a task that stand in the examples: exact whole, ngram by 13 words in a row (the
    whole ones too). first: question id and the first row that holds it."""

    task: str
    exact: int
    ngram: int
    first: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """lengths: words of prompts and answers at the quantiles 0, .05, .5, .95 and 1."""

    source: str
    revision: str
    n: int
    findings: tuple[Finding, ...]
    lengths: dict[str, tuple[int, ...]]
    overlaps: tuple[TaskOverlap, ...]

    @property
    def sound(self) -> bool:
        """Nothing serious, and no whole question of a benchmark."""
        faults = any(one.serious and one.count for one in self.findings)
        return not faults and not any(one.exact for one in self.overlaps)


def check(
    dataset: Dataset,
    tasks: Sequence[Task] = (),
    *,
    prompt: str | None = None,
    answer: str | None = None,
    data_root: Path | None = None,
) -> Report:
    """What is wrong with the examples of a dataset, and which questions of `tasks` they hold.

    prompt, answer: names of the columns, found out unless given.
    Raises UsageError for columns that are not there, DataError for data that cannot be read.
    """
    loaded = load(dataset, data_root=data_root)
    examples = list(_examples(loaded.rows, prompt, answer))
    return Report(
        source=f"{dataset.path} ({loaded.source})",
        revision=loaded.revision,
        n=len(examples),
        findings=tuple(_findings(examples)),
        lengths={
            "prompt": _quantiles([len(one.prompt.split()) for one in examples]),
            "answer": _quantiles([len(one.answer.split()) for one in examples]),
        },
        overlaps=_overlaps(examples, tasks, data_root),
    )


def _examples(rows: Sequence[Row], prompt: str | None, answer: str | None) -> Iterator[Example]:
    first = rows[0]
    if prompt is None and answer is None and "messages" in first:
        yield from (_conversation(row, number) for number, row in enumerate(rows, 1))
        return
    asked = _column(first, prompt, PROMPTS, "--prompt")
    told = _column(first, answer, ANSWERS, "--answer")
    for row in rows:
        rejected = _text(row["rejected"]) if "rejected" in row and told == "chosen" else None
        yield Example(prompt=_text(row.get(asked)), answer=_text(row.get(told)), rejected=rejected)


def _column(row: Row, wanted: str | None, usual: Sequence[str], option: str) -> str:
    if wanted is not None:
        if wanted not in row:
            hint = did_you_mean(wanted, row, f"it has: {', '.join(row)}")
            raise UsageError(f"the data has no column `{wanted}`", hint)
        return wanted
    found = next((name for name in usual if name in row), None)
    if found is None:
        raise UsageError(
            f"no column looks like what `{option}` means: {', '.join(row)}",
            f"name it, for example `{option} {next(iter(row), 'text')}`",
        )
    return found


def _conversation(row: Row, number: int) -> Example:
    turns = row["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"row {number} has no list of messages", 'as in [{"role", "content"}, …]')
    last = turns[-1] if turns and turns[-1].get("role") == "assistant" else {}
    before = turns[:-1] if last else turns
    return Example(prompt=_text(before), answer=_text(last.get("content")))


def _text(value: Any) -> str:
    """Text as it is, messages joined, nothing for null."""
    if isinstance(value, list):
        turns = (turn.get("content") if isinstance(turn, dict) else turn for turn in value)
        return "\n".join(_text(turn) for turn in turns)
    return "" if value is None else str(value)


def _findings(examples: Sequence[Example]) -> Iterator[Finding]:
    whole = Counter(examples)
    asked = Counter(one.prompt for one in examples if one.prompt.strip())
    seen: set[Example] = set()
    repeated = []
    for number, one in enumerate(examples, 1):
        if one in seen:
            repeated.append(number)
        seen.add(one)
    again = [
        number
        for number, one in enumerate(examples, 1)
        if asked[one.prompt] > whole[one] and one.prompt.strip()
    ]
    yield _finding("duplicates", repeated)
    yield _finding("prompts with several answers", again, serious=False)
    for name, rows in _empty(examples).items():
        yield _finding(name, rows)


def _empty(examples: Sequence[Example]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"empty answers": [], "empty prompts": []}
    if any(one.rejected is not None for one in examples):
        found["chosen equal to rejected"] = []
    for number, one in enumerate(examples, 1):
        if not one.answer.strip():
            found["empty answers"].append(number)
        if not one.prompt.strip():
            found["empty prompts"].append(number)
        if one.rejected is not None and one.rejected == one.answer:
            found["chosen equal to rejected"].append(number)
    return found


def _finding(name: str, rows: Sequence[int], *, serious: bool = True) -> Finding:
    return Finding(name=name, count=len(rows), rows=tuple(rows[:SOME]), serious=serious)


def _quantiles(values: Sequence[int]) -> tuple[int, ...]:
    ordered = sorted(values)
    return tuple(ordered[round(q * (len(ordered) - 1))] for q in QUANTILES)


def _overlaps(
    examples: Sequence[Example], tasks: Sequence[Task], data_root: Path | None
) -> tuple[TaskOverlap, ...]:
    texts = [(one.prompt, one.answer) for one in examples]
    found = overlaps(tasks, texts, data_root=data_root) if tasks else []
    return tuple(_of_task(task.id, [one for one in found if one.task == task.id]) for task in tasks)


def _of_task(task: str, found: Sequence[Overlap]) -> TaskOverlap:
    exact = [one for one in found if one.kind == "exact"]
    first = tuple((one.sample_id, one.example + 1) for one in (exact or found)[:SOME])
    return TaskOverlap(task=task, exact=len(exact), ngram=len(found), first=first)
