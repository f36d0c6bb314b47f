"""Generation through transformers' own loop, for models that compute no trie."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from harness.engines.decoding import StreamsOf
from harness.engines.sampling import Stream, pick
from harness.engines.tokenizing import Prepared
from harness.engines.trie import size, unpack
from harness.types import Completion


class _OurPick(LogitsProcessor):  # type: ignore[misc]
    """Leaves only the token that the sample's own random stream has drawn."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = pick(scores, self._streams)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class _OurEnd(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        for stream, token in zip(self._streams, input_ids[:, -1].tolist(), strict=True):
            if stream.completion is None:
                stream.push(token)
        ended = [stream.completion is not None for stream in self._streams]
        return torch.tensor(ended, device=input_ids.device)


class PlainDecoder:
    """Left-padded batches of prompts of similar length, longest first."""

    name = "rows"

    def __init__(self, model: Any, streams_of: StreamsOf) -> None:
        self._model = model
        self._streams_of = streams_of
        self.tokens = 0
        self.decoded = 0

    def generate(
        self, prepared: Sequence[Prepared], batch_size: int, chunk_tokens: int
    ) -> Iterator[Completion]:
        streams = [s for one in prepared for s in self._streams_of(one, time.monotonic())]
        streams.sort(key=lambda stream: -size(stream.prepared.prompt))
        for start in range(0, len(streams), batch_size):
            yield from self._answer(streams[start : start + batch_size])

    def _answer(self, streams: Sequence[Stream]) -> Iterator[Completion]:
        started = time.monotonic()
        for stream in streams:
            stream.started = started
        prompts = [unpack(stream.prepared.prompt) for stream in streams]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        output = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            generation_config=GenerationConfig(
                max_new_tokens=max(s.params.max_tokens for s in streams), pad_token_id=0
            ),
            logits_processor=LogitsProcessorList([_OurPick(streams)]),
            stopping_criteria=StoppingCriteriaList([_OurEnd(streams)]),
        )
        self.tokens += ids.numel()
        self.decoded += output.numel() - ids.numel()
        for stream in streams:
            assert stream.completion is not None
            yield stream.completion
