"""Picking the next token, from a random stream that belongs to one sample alone."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.engines.stopping import Stops, Vocabulary
from harness.engines.tokenizing import Prepared
from harness.engines.trie import size
from harness.types import Completion, SamplingParams

_FEW = 1024  # tokens that nearly always hold the nucleus: sorting a vocabulary takes far longer


@dataclass(slots=True)
class Stream:
    """One sample on its way. `ids` holds all its tokens, the one that ended it included."""

    prepared: Prepared
    index: int
    params: SamplingParams
    stops: Stops
    eos: Collection[int]
    vocabulary: Vocabulary
    started: float
    ids: list[int] = field(default_factory=list)
    completion: Completion | None = None
    generator: random.Random = field(init=False)

    def __post_init__(self) -> None:
        # Neither the batch nor what was asked before has a part in this name.
        name = f"{self.params.seed}\n{self.prepared.request.id}\n{self.index}"
        self.generator = random.Random(name)

    def push(self, token: int) -> Completion | None:
        """Takes the next token; the completion if that was the last."""
        self.ids.append(token)
        if token in self.eos or token in self.stops.ids:
            self._finish(self.vocabulary.decode(self.ids[:-1]) + self._kept(token), ended=True)
        elif len(self.ids) >= self.params.max_tokens:
            self._finish(self.vocabulary.decode(self.ids), ended=False)
        elif self.stops.may_end_with(token):
            text = self.vocabulary.decode(self.ids)
            if self.stops.cut(text) is not None:
                self._finish(text, ended=True)
        return self.completion

    def end(self, *, stopped: bool) -> Completion:
        """The completion of a text that an engine of its own has ended here."""
        self._finish(self.vocabulary.decode(self.ids), ended=stopped)
        assert self.completion is not None
        return self.completion

    def _kept(self, token: int) -> str:
        """What a token that ends the text leaves in it."""
        return self.stops.ids.get(token, "") if self.params.include_stop else ""

    def _finish(self, text: str, *, ended: bool) -> None:
        cut = self.stops.cut(text, include=self.params.include_stop)
        self.completion = Completion(
            request_id=self.prepared.request.id,
            index=self.index,
            text=text if cut is None else cut,
            finish_reason="stop" if ended or cut is not None else "length",
            prompt_tokens=size(self.prepared.prompt),
            completion_tokens=len(self.ids),
            prompt=self.prepared.text,
            latency_s=time.monotonic() - self.started,
        )


def pick(logits: Tensor, streams: Sequence[Stream]) -> Tensor:
    """The next token of each stream, (batch,). logits: (batch, vocabulary)."""
    tokens = logits.argmax(-1)
    whole = [n for n, s in enumerate(streams) if s.params.temperature > 0 and s.params.top_p >= 1]
    nucleus = [n for n, s in enumerate(streams) if s.params.temperature > 0 and s.params.top_p < 1]
    for rows, sample in ((whole, _sample), (nucleus, _sample_nucleus)):
        if rows:
            chosen = [streams[n] for n in rows]
            index = torch.tensor(rows, device=logits.device)
            temperature = _column([s.params.temperature for s in chosen], logits)
            probabilities = (logits[index].double() / temperature).softmax(-1)
            tokens[index] = sample(probabilities, chosen)
    return tokens


def _sample(probabilities: Tensor, streams: Sequence[Stream]) -> Tensor:
    """By inversion: the first token at which the sum of probabilities passes a draw."""
    draw = _column([stream.generator.random() for stream in streams], probabilities)
    passed = probabilities.cumsum(-1)
    place = torch.searchsorted(passed, draw * passed[:, -1:], right=True)
    return place.clamp_max(probabilities.shape[1] - 1)[:, 0]


def _sample_nucleus(probabilities: Tensor, streams: Sequence[Stream]) -> Tensor:
    """From the least set of most probable tokens that reach top_p together."""
    top_p = _column([stream.params.top_p for stream in streams], probabilities)
    ranked, order = _ranked(probabilities, top_p)
    before = ranked.cumsum(-1) - ranked
    place = _sample(ranked.masked_fill(before >= top_p, 0.0), streams)
    return order.gather(1, place[:, None])[:, 0]


def _ranked(probabilities: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable tokens in order, at least as many as reach top_p."""
    few = probabilities.topk(min(_FEW, probabilities.shape[1]))
    if bool((few.values.sum(-1, keepdim=True) >= top_p).all()):
        return few.values, few.indices
    values, indices = probabilities.sort(descending=True)
    return values, indices


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float64)[:, None]
