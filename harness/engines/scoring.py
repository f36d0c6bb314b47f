"""Log-probabilities of choices: each distinct token of all prompts is forwarded once."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from harness.engines.forwarding import TreeModel
from harness.engines.tokenizing import Prepared
from harness.engines.trie import TOKEN_BYTES, SortedPaths, lay_out, plan, size, unpack
from harness.types import Completion

T = TypeVar("T")
TokenText = Callable[[int], str]

_SOFTMAX_ROWS = 256  # positions whose logits are held in float32 at once


@dataclass(slots=True)
class Question:
    """A scored request on its way: one log-probability and one greedy flag per answer token."""

    prepared: Prepared
    missing: int
    logprobs: list[list[float]]
    greedy: list[list[bool]]
    top: list[tuple[str, float]] = field(default_factory=list)
    started: float = 0.0

    @classmethod
    def of(cls, prepared: Prepared) -> Question:
        counts = [size(answer) for _, answer in prepared.choices]
        return cls(
            prepared,
            missing=len(counts),
            logprobs=[[0.0] * count for count in counts],
            greedy=[[False] * count for count in counts],
        )

    def completion(self) -> Completion:
        return Completion(
            request_id=self.prepared.request.id,
            text=self.top[0][0] if self.top else "",
            finish_reason="scored",
            prompt_tokens=size(self.prepared.prompt),
            choice_logprobs=self._per_choice(sum, self.logprobs),
            choice_greedy=self._per_choice(all, self.greedy),
            top_tokens=tuple(self.top),
            prompt=self.prepared.text,
            latency_s=time.monotonic() - self.started,
        )

    def _per_choice(
        self, total: Callable[[Iterable[T]], T], values: list[list[T]]
    ) -> tuple[T, ...]:
        """One value for each choice; the windows of a text that is scored whole are one."""
        if self.prepared.request.kind == "rolling":
            return (total(itertools.chain.from_iterable(values)),)
        return tuple(total(own) for own in values)


@dataclass(slots=True)
class Reading:
    """What one choice of a question wants from a row: the token after `depth` and those behind."""

    question: Question
    choice: int
    depth: int
    targets: list[int]


@dataclass(slots=True)
class Sheet:
    """Distinct rows to be forwarded, and who reads which of their positions."""

    rows: SortedPaths
    readings: list[list[Reading]] = field(default_factory=list)

    @classmethod
    def of(cls, prepared: Sequence[Prepared]) -> Sheet:
        rows = SortedPaths.of(path for one in prepared for path in one.paths())
        numbers = {path: row for row, path in enumerate(rows.paths)}
        sheet = cls(rows, [[] for _ in rows.paths])
        for one in prepared:
            question = Question.of(one)
            for choice, (path, pair) in enumerate(zip(one.paths(), one.choices, strict=True)):
                reading = Reading(question, choice, size(pair[0]) - 1, unpack(pair[1]))
                sheet.readings[numbers[path]].append(reading)
        return sheet

    def settle(self, row: int, started: float) -> Iterator[Completion]:
        """The questions that were only waiting for this row."""
        for reading in self.readings[row]:
            question = reading.question
            question.started = question.started or started
            question.missing -= 1
            if question.missing == 0:
                yield question.completion()


class Scorer(Protocol):
    """Answers prepared choose and loglikelihood requests, in any order."""

    name: str

    def score(self, prepared: Sequence[Prepared], chunk_tokens: int) -> Iterator[Completion]: ...


class Wanted:
    """Positions of one forward whose logits are read, and by which answer tokens. text: of a token
    where the likeliest ones are to be told."""

    def __init__(self, text: TokenText) -> None:
        self._text = text
        self.positions: dict[int, int] = {}
        self._index: list[int] = []
        self._targets: list[int] = []
        self._slots: list[tuple[Reading, int]] = []
        self._told: list[tuple[int, Question]] = []

    def add(self, position: int, reading: Reading, token: int) -> None:
        self._index.append(self.positions.setdefault(position, len(self.positions)))
        self._targets.append(reading.targets[token])
        self._slots.append((reading, token))
        first = reading.choice == 0 and token == 0
        if first and reading.question.prepared.request.top_tokens:
            self._told.append((self._index[-1], reading.question))

    def fill_in(self, logits: Tensor) -> None:
        """Writes what the answer tokens get; logits: (positions, vocabulary)."""
        if not self._slots:
            return
        index = torch.tensor(self._index, device=logits.device)
        targets = torch.tensor(self._targets, device=logits.device)
        norms = torch.cat(
            [
                logits[start : start + _SOFTMAX_ROWS].float().logsumexp(-1)
                for start in range(0, len(logits), _SOFTMAX_ROWS)
            ]
        )
        logprobs = logits[index, targets].float() - norms[index]
        greedy = logits.argmax(-1)[index] == targets
        self._tell_likeliest(logits, norms)
        for (reading, token), logprob, best in zip(
            self._slots, logprobs.tolist(), greedy.tolist(), strict=True
        ):
            reading.question.logprobs[reading.choice][token] = logprob
            reading.question.greedy[reading.choice][token] = best

    def _tell_likeliest(self, logits: Tensor, norms: Tensor) -> None:
        """The likeliest first tokens go to the questions that want them."""
        for place, question in self._told:
            wanted = min(question.prepared.request.top_tokens or 0, logits.shape[-1])
            values, ids = logits[place].float().topk(wanted)
            texts = map(self._text, ids.tolist())
            question.top = list(zip(texts, (values - norms[place]).tolist(), strict=True))


class TreeScorer:
    """Packs branches of the trie of all rows into forwards without padding."""

    name = "tree"

    def __init__(self, tree: TreeModel, text: TokenText) -> None:
        self._tree = tree
        self._text = text

    def score(self, prepared: Sequence[Prepared], chunk_tokens: int) -> Iterator[Completion]:
        sheet = Sheet.of(prepared)
        self._tree.forget()
        for forward in plan(sheet.rows, chunk_tokens):
            started = time.monotonic()
            layout = lay_out(forward, sheet.rows)
            wanted = Wanted(self._text)
            ended: list[int] = []
            for part, places in zip(forward.parts, layout.places, strict=True):
                for row in part.readers:
                    _want(wanted, sheet.readings[row], forward.base, places)
                    if len(sheet.rows.paths[row]) == part.stop * TOKEN_BYTES:
                        ended.append(row)
            wanted.fill_in(self._tree.compute(forward, layout, list(wanted.positions)))
            for row in ended:
                yield from sheet.settle(row, started)
        self._tree.forget()


def _want(wanted: Wanted, readings: Sequence[Reading], base: int, places: Sequence[int]) -> None:
    stop = base + len(places)
    for reading in readings:
        first = max(reading.depth, base)
        last = min(reading.depth + len(reading.targets), stop)
        for depth in range(first, last):
            wanted.add(places[depth - base], reading, depth - reading.depth)


class RowScorer:
    """One padded row per distinct sequence, longest first, for models that compute no trie.

    batch_size: rows of a batch, 0 for as many as `chunk_tokens` allows.
    """

    name = "rows"

    def __init__(self, model: Any, batch_size: int, text: TokenText) -> None:
        self._model = model
        self._text = text
        self._batch_size = batch_size
        self._picks = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.forwards = 0
        self.tokens = 0

    def score(self, prepared: Sequence[Prepared], chunk_tokens: int) -> Iterator[Completion]:
        sheet = Sheet.of(prepared)
        order = sorted(range(len(sheet.rows.paths)), key=lambda r: -len(sheet.rows.paths[r]))
        while order:
            started = time.monotonic()
            fitting = max(1, chunk_tokens // size(sheet.rows.paths[order[0]]))
            count = min(fitting, self._batch_size or fitting)
            batch, order = order[:count], order[count:]
            self._forward(sheet, batch)
            for row in batch:
                yield from sheet.settle(row, started)

    def _forward(self, sheet: Sheet, batch: Sequence[int]) -> None:
        rows = [torch.tensor(unpack(sheet.rows.paths[row])) for row in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
        # The logits before the first answer are not read.
        skipped = min(reading.depth for row in batch for reading in sheet.readings[row])
        device = self._model.device
        extra = {"logits_to_keep": ids.shape[1] - skipped} if self._picks else {}
        self.forwards += 1
        self.tokens += ids.numel()
        logits = self._model(
            input_ids=ids.to(device),
            attention_mask=mask.long().to(device),
            use_cache=False,
            **extra,
        ).logits
        offset = skipped if self._picks else 0
        for number, row in enumerate(batch):
            wanted = Wanted(self._text)
            _want(wanted, sheet.readings[row], 0, range(len(rows[number])))
            index = torch.tensor(list(wanted.positions), device=device) - offset
            wanted.fill_in(logits[number, index])
