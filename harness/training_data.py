"""From the datasets of a recipe to the examples that a trainer reads.

Rows are drawn from each source, their columns mapped, and a template put around them. What is
missing or empty is found here, before any model is loaded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness import datasets, registry
from harness.datasets import Loaded
from harness.errors import DataError, UsageError
from harness.recipes import Asked, Data, Own, Source
from harness.task import Row, Task, render
from harness.templates import CHAT, TEMPLATES, Template, own
from harness.types import JSON, Dataset, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """given: what a trainer reads. question, answers: the texts as they stood in the data."""

    given: JSON
    question: str
    answers: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What was taken from one source. rows: that it has; empty: of those taken, left out."""

    path: str
    revision: str
    rows: int
    taken: int
    empty: int


@dataclass(slots=True, kw_only=True)
class TrainingData:
    examples: list[Example] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)


class Form(Protocol):
    """Makes an example of a row; None where its completion is empty."""

    def __call__(self, row: Row, index: int) -> Example | None: ...


def resolve(asked: Asked, data_root: Path | None = None) -> TrainingData:
    """All examples of the recipe, in order of its sources.

    Raises UsageError for a recipe without data, DataError for a column that is not there, an empty
    completion, or a share that cannot be taken.
    """
    data: Data | None = asked.shape.data
    if data is None or not data.all_sources():
        raise UsageError(
            f"the recipe `{asked.name}` names no data", "add `data: {sources: [{path: …}]}`"
        )
    found = TrainingData()
    for source in data.all_sources():
        _draw(source, data, asked, found, data_root)
    if not found.examples:
        raise DataError(f"the recipe `{asked.name}` has no example left", "take more rows")
    if data.shuffle_answers:
        found.examples = _shuffled(found.examples, asked, data.seed)
    return found


def _shuffled(examples: list[Example], asked: Asked, seed: int) -> list[Example]:
    """Each prompt with the completion of another one: in random order, every answer moves on."""
    if asked.trainer.data != "demonstrations":
        raise UsageError(
            f"`data.shuffle_answers`: `{asked.trainer.name}` learns from {asked.trainer.data}, "
            "which hold no completion of their own",
            "take it out, or use a method that learns from demonstrations, such as `sft`",
        )
    if len(examples) < 2:
        raise DataError("one example has no other answer to take", "take more rows")
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    shuffled = list(examples)
    for place, other in zip(order, [*order[1:], order[0]], strict=True):
        given = {**examples[place].given, "completion": examples[other].given["completion"]}
        shuffled[place] = replace(examples[place], given=given, answers=examples[other].answers)
    return shuffled


def _draw(
    source: Source, data: Data, asked: Asked, found: TrainingData, data_root: Path | None
) -> None:
    dataset = Dataset(
        path=source.path, config=source.config, split=source.split, revision=source.revision
    )
    loaded = datasets.load(dataset, data_root=data_root)
    form = _form(asked, data, {**data.columns, **source.columns}, loaded)
    chosen = _chosen(source, loaded, data.seed)
    empty = 0
    for index in chosen:
        example = _made(form, loaded, index)
        if example is not None:
            found.examples.append(example)
        elif data.empty == "drop":
            empty += 1
        else:
            raise DataError(
                f"the completion in {loaded.where(index)} is empty",
                "correct the row, or leave such rows out with `--set data.empty=drop`",
            )
    found.drawn.append(
        Drawn(
            path=source.path,
            revision=loaded.revision,
            rows=len(loaded.rows),
            taken=len(chosen) - empty,
            empty=empty,
        )
    )


def _made(form: Form, loaded: Loaded, index: int) -> Example | None:
    try:
        return form(loaded.rows[index], index)
    except DataError as error:
        raise DataError(f"{loaded.where(index)}: {error.message}", error.hint) from None


def _chosen(source: Source, loaded: Loaded, seed: int) -> list[int]:
    """Places of the rows that are taken, in order: drawn anew for each source, without return."""
    for column in source.where:
        _require(column, loaded.rows[0])
    rows = [
        index
        for index, row in enumerate(loaded.rows)
        if all(row.get(column) == value for column, value in source.where.items())
    ]
    if source.take is None or (isinstance(source.take, float) and source.take == 1.0):
        return rows
    n = round(source.take * len(rows)) if isinstance(source.take, float) else source.take
    if not 0 < n <= len(rows):
        raise DataError(
            f"`{source.take}` of `{source.path}` cannot be taken: it has {len(rows)} rows",
            "a share is a number up to 1.0, a whole number counts rows",
        )
    return sorted(random.Random(f"{seed}:{source.path}").sample(rows, n))


def _require(column: str, row: Row) -> None:
    if column not in row:
        raise DataError(f"there is no column `{column}`", f"the columns are: {', '.join(row)}")


def template_mismatch(asked: Asked, task: Task, data_root: Path | None) -> str:
    """How a task asks otherwise than the training did, '' where both put the same around a
    question. A chat template around either is a difference, unless it is around both."""
    template = _template(asked.shape.data)
    if asked.trainer.data == "problems" and asked.shape.data.template is None:
        return ""
    prompts = _prompts(task, data_root)
    text = [prompt for prompt in prompts if isinstance(prompt, str)]
    if template is None:
        return "plain text, where training has the chat template (`--chat`)" if text else ""
    if not text:
        return f"messages, where training has the template `{template.name}`"
    if not all(prompt.startswith(template.before) for prompt in text):
        return f"prompts begin with {text[0][:40]!r}, training ones with {template.before[:40]!r}"
    if not all(prompt.endswith(template.after) for prompt in text):
        return f"prompts end with {text[0][-20:]!r}, training ones with {template.after[-20:]!r}"
    bare = not template.before and not template.after
    if bare and any(len(part.strip()) > 1 for part in _framing(text)):
        return f"prompts have a text around the question, as {text[0][:40]!r}"
    return ""


def _prompts(task: Task, data_root: Path | None, most: int = 50) -> list[Any]:
    rows = datasets.load(task.dataset, task.columns, data_root=data_root).rows[:most]
    samples = [task.to_sample(row, index) for index, row in enumerate(rows)]
    return [render(task, sample, (), chat=False).prompt for sample in samples]


def _framing(texts: list[str]) -> tuple[str, str]:
    """What all texts begin and end with."""
    shortest = min(map(len, texts))
    before = next((i for i in range(shortest) if len({t[i] for t in texts}) > 1), shortest)
    backwards = [text[::-1] for text in texts]
    after = next((i for i in range(shortest) if len({t[i] for t in backwards}) > 1), 0)
    return texts[0][:before], texts[0][len(texts[0]) - after :]


def _form(asked: Asked, data: Data, columns: Mapping[str, str], loaded: Loaded) -> Form:
    kind = asked.trainer.data
    known = {"demonstrations": {"prompt", "completion", "messages", "system"}}
    known |= {"preferences": {"prompt", "chosen", "rejected", "system"}, "problems": {"prompt"}}
    for name in columns:
        if name not in known[kind]:
            raise UsageError(
                f"`data.columns.{name}`: {kind} have no such part",
                f"there are: {', '.join(sorted(known[kind]))}",
            )
    reader = _Columns(columns=dict(columns), system=data.system, template=_template(data))
    if kind == "problems":
        task = registry.task(str(asked.shape.params.model_dump()["reward"]))
        return _Problems(reader, task, data)
    for column in columns.values():
        _require(column, loaded.rows[0])
    return _Preferences(reader) if kind == "preferences" else _Demonstrations(reader, loaded)


def _template(data: Data) -> Template | None:
    """None: messages, for the chat template of the model."""
    if isinstance(data.template, Own):
        asked = data.template
        if asked.prompt.count("{prompt}") != 1 or not asked.completion.endswith("{completion}"):
            raise UsageError(
                "`data.template` needs `{prompt}` once, and `{completion}` at its end",
                'as in {prompt: "Q: {prompt}\\nA:", completion: " {completion}"}',
            )
        return own(asked.prompt, asked.completion)
    return None if data.template in (None, CHAT) else TEMPLATES[str(data.template)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Reads a row by our names."""

    columns: dict[str, str]
    system: str | None
    template: Template | None

    def text(self, row: Row, name: str) -> str:
        column = self.columns.get(name, name)
        _require(column, row)
        return datasets.text(row, column)

    def asked(self, question: str, row: Row) -> str | list[JSON]:
        if self.template is not None:
            return self.template.prompt(question)
        return [*self.opening(row), {"role": "user", "content": question}]

    def opening(self, row: Row) -> list[JSON]:
        own = row.get(self.columns["system"]) if "system" in self.columns else None
        system = own or self.system
        return [{"role": "system", "content": system}] if system else []

    def answered(self, answer: str) -> str:
        return self.template.completion(answer) if self.template is not None else answer

    def messages(self, value: Any, column: str) -> list[JSON]:
        whole = isinstance(value, list | tuple) and all(
            isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in value
        )
        if not whole or not value:
            raise DataError(
                f"column `{column}` should hold messages with role and content",
                "map the columns of prompt and completion instead",
            )
        return [{"role": turn["role"], "content": turn["content"] or ""} for turn in value]


class _Demonstrations:
    """A prompt and its completion, from two columns or out of a conversation."""

    def __init__(self, reader: _Columns, loaded: Loaded) -> None:
        self.reader = reader
        named = "messages" in reader.columns
        self.talks = named or ("messages" in loaded.rows[0] and "prompt" not in reader.columns)

    def __call__(self, row: Row, index: int) -> Example | None:
        if self.talks:
            return self._conversation(row)
        question = self.reader.text(row, "prompt")
        answer = self.reader.text(row, "completion")
        if not answer.strip():
            return None
        prompt, completion = self.reader.asked(question, row), self.reader.answered(answer)
        given = {"prompt": prompt, "completion": completion}
        return Example(given=given, question=question, answers=answer)

    def _conversation(self, row: Row) -> Example | None:
        column = self.reader.columns.get("messages", "messages")
        _require(column, row)
        turns = self.reader.messages(row[column], column)
        first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), None)
        if first is None or not any(
            turn["content"].strip() for turn in turns if turn["role"] == "assistant"
        ):
            return None
        prompt, completion = turns[:first], turns[first:]
        question = "\n".join(turn["content"] for turn in prompt)
        answers = "\n".join(turn["content"] for turn in completion)
        given: JSON = {"prompt": prompt, "completion": completion}
        if self.reader.template is not None:
            given = self._as_text(prompt, completion)
        elif prompt[:1] and prompt[0]["role"] != "system":
            given["prompt"] = [*self.reader.opening(row), *prompt]
        return Example(given=given, question=question, answers=answers)

    def _as_text(self, prompt: list[JSON], completion: list[JSON]) -> JSON:
        if len(prompt) != 1 or len(completion) != 1:
            raise DataError(
                "a conversation of several turns does not fit a template of text",
                "`--set data.template=chat`",
            )
        return {
            "prompt": self.reader.asked(prompt[0]["content"], {}),
            "completion": self.reader.answered(completion[0]["content"]),
        }


class _Preferences:
    """A prompt with a better and a worse completion, which may be whole conversations."""

    def __init__(self, reader: _Columns) -> None:
        self.reader = reader

    def __call__(self, row: Row, index: int) -> Example | None:
        columns = self.reader.columns
        better = columns.get("chosen", "chosen")
        _require(better, row)
        if isinstance(row[better], str):
            question = self.reader.text(row, "prompt")
            prompt = self.reader.asked(question, row)
            answers = [self.reader.text(row, name) for name in ("chosen", "rejected")]
        else:
            question, prompt, answers = self._conversations(row)
        if not all(answer.strip() for answer in answers):
            return None
        chosen, rejected = (self.reader.answered(answer) for answer in answers)
        given = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        return Example(given=given, question=question, answers="\n".join(answers))

    def _conversations(self, row: Row) -> tuple[str, str | list[JSON], list[str]]:
        """What both have in common is the prompt; the last turns are the completions."""
        both = []
        for name in ("chosen", "rejected"):
            column = self.reader.columns.get(name, name)
            _require(column, row)
            both.append(self.reader.messages(row[column], column))
        turns = both[0][:-1]
        question = "\n".join(turn["content"] for turn in turns)
        answers = [turns_of[-1]["content"] for turns_of in both]
        if self.reader.template is None:
            return question, [*self.reader.opening(row), *turns], answers
        if len(turns) != 1:
            raise DataError(
                "a conversation of several turns does not fit a template of text",
                "`--set data.template=chat`",
            )
        return question, self.reader.asked(question, row), answers


class _Problems:
    """A question with the sample that the task grades answers against."""

    def __init__(self, reader: _Columns, task: Task, data: Data) -> None:
        self.reader, self.task, self.data = reader, task, data

    def __call__(self, row: Row, index: int) -> Example | None:
        for column in self.task.columns:
            _require(column, row)
        sample = self.task.to_sample(row, index)
        asked = render(self.task, sample, (), chat=self.data.template == CHAT)
        prompt: Any = asked.prompt
        if self.reader.template is not None:
            prompt = self.reader.asked(self.reader.text(row, "prompt"), row)
        elif not isinstance(prompt, str):
            prompt = [to_json(message) for message in prompt]
        bare = sample.input if isinstance(sample.input, str) else sample.input[-1].content
        given = {"prompt": prompt, "sample": to_json(sample)}
        return Example(given=given, question=bare, answers=sample.target)


def written(examples: list[Example]) -> Iterator[JSON]:
    """The lines of train.jsonl."""
    return (example.given for example in examples)
