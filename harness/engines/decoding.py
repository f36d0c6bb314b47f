"""Generation: prompts are prefilled as a trie, finished rows leave the batch, new ones enter."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.engines.forwarding import TreeModel
from harness.engines.kv_cache import BufferCache, BufferLayer
from harness.engines.sampling import Stream, pick
from harness.engines.tokenizing import Prepared
from harness.engines.trie import Forward, Layout, SortedPaths, lay_out, plan, size
from harness.types import Completion

# A rebuild of the batch copies its cache, which costs about as much as a few decoding steps; it
# has to free or fill this share of the rows.
_REBUILD_SHARE = 0.25

StreamsOf = Callable[[Prepared, float], list[Stream]]


class Decoder(Protocol):
    """Answers prepared generate requests, in any order."""

    name: str
    decoded: int  # positions computed one by one, after prompts

    def generate(
        self, prepared: Sequence[Prepared], batch_size: int, chunk_tokens: int
    ) -> Iterator[Completion]: ...


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A sample whose prompt has been read and that waits for a row in the batch.

    places: where the prompt's tokens stand in the cache of the trie, as long as that holds them.
    """

    stream: Stream
    logits: Tensor
    places: Sequence[int]


@dataclass(slots=True)
class Row:
    """A sample in the batch; `tokens` of the cache are its own, those just before the end."""

    stream: Stream
    tokens: int


class Batch:
    """Rows that are decoded together, all ending at the same place of the cache."""

    def __init__(self, tree: TreeModel) -> None:
        self._tree = tree
        self._cache = BufferCache()
        self._length = 0
        self._mask = torch.empty((0, 0))
        self.rows: list[Row] = []

    def live(self) -> list[int]:
        return [n for n, row in enumerate(self.rows) if row.stream.completion is None]

    def step(self) -> Tensor:
        """Logits (batch, vocabulary) after the newest token of each row."""
        device = self._tree.device
        self._length += 1
        if self._length > self._mask.shape[1]:
            self._mask = torch.nn.functional.pad(self._mask, (0, self._length))
        tokens = torch.tensor([row.stream.ids[-1] for row in self.rows], device=device)
        positions = torch.tensor([row.tokens for row in self.rows], device=device)
        for row in self.rows:
            row.tokens += 1
        return self._tree.decode(tokens, positions, self._mask[:, : self._length], self._cache)

    def rebuild(self, groups: Sequence[Group]) -> None:
        """Drops the finished rows and adds the groups; rows end at the same place again."""
        live = self.live()
        kept = Group([self.rows[n] for n in live], self._layers(live))
        groups = [group for group in (kept, *groups) if group.rows]
        self.rows = [row for group in groups for row in group.rows]
        self._length = max((row.tokens for row in self.rows), default=0)
        self._cache = BufferCache(_joined([group.layers for group in groups], self._length))
        self._mask = self._hidden()

    def _layers(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        longest = max((self.rows[n].tokens for n in rows), default=0)
        index = torch.tensor(rows, dtype=torch.long, device=self._tree.device)

        def cut(states: Tensor) -> Tensor:
            return states[..., self._length - longest : self._length, :].index_select(0, index)

        return [(cut(layer.keys), cut(layer.values)) for layer in self._cache] if rows else []

    def _hidden(self) -> Tensor:
        """(rows, tokens): 0 for a row's own tokens, the least number before them."""
        device, dtype = self._tree.device, self._tree.dtype
        first = torch.tensor([[self._length - row.tokens] for row in self.rows], device=device)
        hidden = torch.arange(self._length, device=device) < first
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows and, for each layer, their keys and values: (rows, heads, tokens, width), the tokens
    of each row at the end."""

    rows: list[Row]
    layers: list[tuple[Tensor, Tensor]]


def _joined(groups: list[list[tuple[Tensor, Tensor]]], length: int) -> list[BufferLayer]:
    return [
        BufferLayer(*(_stacked(states, length) for states in zip(*parts, strict=True)))
        for parts in zip(*groups, strict=True)
    ]


def _stacked(states: Sequence[Tensor], length: int) -> Tensor:
    """One tensor of all rows, aligned at the end; zeros in front, which the mask hides."""
    first = states[0]
    count = sum(part.shape[0] for part in states)
    stacked = first.new_zeros((count, first.shape[1], length, first.shape[3]))
    offset = 0
    for part in states:
        stacked[offset : offset + part.shape[0], :, length - part.shape[2] :] = part
        offset += part.shape[0]
    return stacked


class TreeDecoder:
    """Continuous batching over a trie of prompts: what prompts share is read once."""

    name = "tree"

    def __init__(self, tree: TreeModel, streams_of: StreamsOf) -> None:
        self._tree = tree
        self._streams_of = streams_of
        self.decoded = 0

    def generate(
        self, prepared: Sequence[Prepared], batch_size: int, chunk_tokens: int
    ) -> Iterator[Completion]:
        self._tree.forget()
        batch = Batch(self._tree)
        queue = Queue(self._prefill(prepared, chunk_tokens))
        while True:
            live = len(batch.live())
            if live == 0 or _worth_a_rebuild(live, len(batch.rows), batch_size, queue):
                groups: list[Group] = []
                yield from self._admit(queue, batch_size - live, groups)
                batch.rebuild(groups)
            if not batch.rows:
                break
            yield from self._advance(batch)
        self._tree.forget()

    def _admit(self, queue: Queue, free: int, groups: list[Group]) -> Iterator[Completion]:
        """Fills `groups` with up to `free` new rows; yields what their first token ended."""
        while free and (taken := queue.take(free)):
            yield from _start(taken)
            taken = [one for one in taken if one.stream.completion is None]
            if taken:
                groups.append(self._group(taken))
            free -= len(taken)

    def _advance(self, batch: Batch) -> Iterator[Completion]:
        logits = batch.step()
        self.decoded += len(batch.rows)
        tokens = pick(logits, [row.stream for row in batch.rows]).tolist()
        for row, token in zip(batch.rows, tokens, strict=True):
            if row.stream.completion is None and (completion := row.stream.push(token)):
                yield completion

    def _prefill(
        self, prepared: Sequence[Prepared], chunk_tokens: int
    ) -> Iterator[list[Prefilled]]:
        """The samples of each forward that ends prompts; the cache holds them until the next."""
        rows = SortedPaths.of(one.prompt for one in prepared)
        askers: dict[bytes, list[Prepared]] = {}
        for one in prepared:
            askers.setdefault(one.prompt, []).append(one)
        for forward in plan(rows, chunk_tokens):
            started = time.monotonic()
            layout = lay_out(forward, rows)
            ended = _ended(forward, layout, rows)
            logits = self._tree.compute(forward, layout, [places[-1] for _, places in ended])
            samples: list[Prefilled] = []
            for n, (path, places) in enumerate(ended):
                own = [*range(forward.base), *(forward.base + place for place in places)]
                streams = [s for one in askers[path] for s in self._streams_of(one, started)]
                samples += [Prefilled(stream, logits[n], own) for stream in streams]
            if samples:
                yield samples

    def _group(self, taken: Sequence[Prefilled]) -> Group:
        longest = max(len(one.places) for one in taken)
        padded = [[0] * (longest - len(one.places)) + list(one.places) for one in taken]
        places = torch.tensor(padded, device=self._tree.device)
        rows = [Row(one.stream, len(one.places)) for one in taken]
        return Group(rows, self._tree.cache.rows(places))


class Queue:
    """Samples in the order in which their prompts are read, which happens only when needed."""

    def __init__(self, arriving: Iterator[list[Prefilled]]) -> None:
        self._arriving = arriving
        self._waiting: deque[Prefilled] = deque()
        self.exhausted = False

    def take(self, most: int) -> list[Prefilled]:
        """Some of the samples of one forward; none only if there are no more at all."""
        if not self._waiting:
            self._waiting.extend(next(self._arriving, ()))
            self.exhausted = not self._waiting
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


def _worth_a_rebuild(live: int, rows: int, batch_size: int, queue: Queue) -> bool:
    if queue.exhausted:
        return rows - live >= _REBUILD_SHARE * rows
    return batch_size - live >= _REBUILD_SHARE * batch_size


def _ended(
    forward: Forward, layout: Layout, rows: SortedPaths
) -> list[tuple[bytes, Sequence[int]]]:
    """Rows that are complete with this forward, and where their tokens stand in it."""
    return [
        (rows.paths[row], places)
        for part, places in zip(forward.parts, layout.places, strict=True)
        for row in part.readers
        if size(rows.paths[row]) == part.stop
    ]


def _start(taken: Sequence[Prefilled]) -> Iterator[Completion]:
    """Picks the first token of each sample; yields those that end with it."""
    if not taken:
        return
    tokens = pick(torch.stack([one.logits for one in taken]), [one.stream for one in taken])
    for one, token in zip(taken, tokens.tolist(), strict=True):
        if completion := one.stream.push(token):
            yield completion
