"""Pooled activations of texts, unsteered and under any number of steerings at once.

A batch goes through the whole model once. Each steering then repeats only the layers behind the
first one that it changes, up to the last one that is wanted: what is below does not depend on it.
Vectors leave as soon as a batch is done, so memory does not grow with the number of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.engines.kv_cache import is_out_of_memory
from harness.engines.layers import backbone, decoder_layers, hidden, layer_numbers, pool
from harness.engines.steering import Steered, Steering, check_fits
from harness.engines.trie import size, unpack
from harness.errors import WorkerError
from harness.types import ModelSpec

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
_MOST_ROWS = 256
_CLOSE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """layers: from 0. pooling: mean or last."""

    layers: tuple[int, ...]
    pooling: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """rows: places in the given texts. vectors: (rows, layers, width), float32, on the CPU.
    steering: place in the given steerings."""

    rows: list[int]
    steering: int
    vectors: Tensor


class Activations:
    """layer_forwards: how often a layer was computed, for one batch each time."""

    def __init__(self, model: Any, spec: ModelSpec, batch_tokens: int = 0) -> None:
        self.layers = decoder_layers(model, spec)
        self.width = model.config.get_text_config().hidden_size
        self.layer_forwards = 0
        self.batches = 0
        self.tokens = 0
        self._spec = spec
        self._backbone = backbone(model)
        self._device: torch.device = model.device
        kind = "cuda" if self._device.type == "cuda" else "cpu"
        self._batch_tokens = batch_tokens or BATCH_TOKENS[kind]
        self._reuses: bool | None = None

    def numbers(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        return layer_numbers(layers, len(self.layers), self._spec.name)

    @torch.inference_mode()
    def take(
        self,
        texts: Sequence[bytes],
        wanted: Wanted,
        steerings: Sequence[Steering | None] = (None,),
        missing: Callable[[int, int], bool] = lambda row, steering: True,
    ) -> Iterator[Taken]:
        """texts: packed token ids. missing: whether the vector of (text, steering) is wanted.

        Raises WorkerError `out_of_memory` where not even one text fits.
        """
        for steering in steerings:
            if steering is not None:
                check_fits(steering, self.width, len(self.layers), self._spec.name)
        every = range(len(steerings))
        open_rows = [i for i in range(len(texts)) if any(missing(i, s) for s in every)]
        # The longest first: if they do not fit, that is known at once.
        left = sorted(open_rows, key=lambda i: size(texts[i]), reverse=True)
        while left:
            rows = self._batch(left, texts)
            asked = [s for s in every if any(missing(i, s) for i in rows)]
            try:
                found = list(self._batch_of([texts[i] for i in rows], wanted, steerings, asked))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(rows))
                continue
            left = left[len(rows) :]
            for place, vectors in found:
                yield Taken(rows=rows, steering=place, vectors=vectors)

    def _batch(self, left: Sequence[int], texts: Sequence[bytes]) -> list[int]:
        fitting = max(1, self._batch_tokens // max(1, size(texts[left[0]])))
        return list(left[: min(fitting, _MOST_ROWS)])

    def _halve(self, rows: int) -> None:
        if rows == 1:
            raise WorkerError(
                f"`{self._spec.name}` and one text do not fit into memory",
                "use `--set dtype=bfloat16`, or another `--set device=`",
                cause="out_of_memory",
            ) from None
        self._batch_tokens //= 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _batch_of(
        self,
        texts: Sequence[bytes],
        wanted: Wanted,
        steerings: Sequence[Steering | None],
        asked: Sequence[int],
    ) -> Iterator[tuple[int, Tensor]]:
        ids, mask = self._padded(texts)
        changing = [s for i in asked if (s := steerings[i]) is not None and s.strength != 0]
        start = min((s.first for s in changing), default=len(self.layers))
        trace = _Trace(self.layers, wanted, mask, start)
        with trace:
            self._whole(ids, mask)
        self.batches += 1
        self.tokens += int(mask.sum())
        if changing and self._reuses is None:
            self._reuses = self._replays(trace, wanted, mask, start)
        for place in asked:
            steering = steerings[place]
            if steering is None or steering.strength == 0:
                yield place, trace.vectors().cpu()
            elif self._reuses:
                yield place, self._replayed(trace, wanted, mask, steering).cpu()
            else:
                yield place, self._under(ids, mask, wanted, steering).cpu()

    def _padded(self, texts: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Ids and mask (rows, tokens), padded on the right whatever the tokenizer would do."""
        rows = [unpack(text) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return ids.to(self._device), mask.to(self._device)

    def _whole(self, ids: Tensor, mask: Tensor) -> None:
        self._backbone(input_ids=ids, attention_mask=mask, use_cache=False)
        self.layer_forwards += len(self.layers)

    def _under(self, ids: Tensor, mask: Tensor, wanted: Wanted, steering: Steering) -> Tensor:
        """The whole model anew, for one whose layers cannot be called apart."""
        with Steered(self.layers, steering):
            trace = _Trace(self.layers, wanted, mask, len(self.layers))
            with trace:
                self._whole(ids, mask)
        return trace.vectors()

    def _replayed(
        self, trace: _Trace, wanted: Wanted, mask: Tensor, steering: Steering | None, start: int = 0
    ) -> Tensor:
        first = start if steering is None else steering.first
        found = dict(trace.pooled)
        states = trace.entering[first].states
        for number in range(first, max(wanted.layers) + 1):
            states = trace.entering[number].repeat(self.layers[number], states)
            self.layer_forwards += 1
            if steering is not None:
                states = steering.behind(number, states)
            if number in wanted.layers:
                found[number] = pool(states, mask, wanted.pooling)
        return torch.stack([found[number] for number in wanted.layers], dim=1)

    def _replays(self, trace: _Trace, wanted: Wanted, mask: Tensor, start: int) -> bool:
        """Whether calling the layers apart gives what the model gave, tried on one batch."""
        if max(wanted.layers) < start:
            return True
        before = self.layer_forwards
        try:
            again = self._replayed(trace, wanted, mask, None, start)
        except (TypeError, ValueError, AttributeError, KeyError):
            return False
        finally:
            self.layer_forwards = before
        own = trace.vectors()
        return bool((again - own).abs().max() <= _CLOSE * own.abs().max())


@dataclass(frozen=True, slots=True)
class _Entering:
    """What a layer was called with; states: its hidden states, first among the arguments or by
    name."""

    states: Tensor
    rest: tuple[Any, ...]
    named: dict[str, Any]
    by_name: bool

    def repeat(self, layer: nn.Module, states: Tensor) -> Tensor:
        if self.by_name:
            return hidden(layer(*self.rest, **{**self.named, "hidden_states": states}))
        return hidden(layer(states, *self.rest, **self.named))


class _Trace:
    """Hooks for one pass: pooled outputs of the wanted layers, and what enters those from `start`
    on. Only these layers are touched."""

    def __init__(self, layers: nn.ModuleList, wanted: Wanted, mask: Tensor, start: int) -> None:
        self.pooled: dict[int, Tensor] = {}
        self.entering: dict[int, _Entering] = {}
        self._layers, self._wanted, self._mask, self._start = layers, wanted, mask, start
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for number in self._wanted.layers:
            hook = self._layers[number].register_forward_hook(self._taking(number))
            self._handles.append(hook)
        for number in range(self._start, max(self._wanted.layers) + 1):
            module = self._layers[number]
            hook = module.register_forward_pre_hook(self._noting(number), with_kwargs=True)
            self._handles.append(hook)

    def __exit__(self, *ending: object) -> None:
        for handle in self._handles:
            handle.remove()

    def vectors(self) -> Tensor:
        return torch.stack([self.pooled[number] for number in self._wanted.layers], dim=1)

    def _taking(self, number: int) -> Any:
        def take(module: nn.Module, given: Any, output: Any) -> None:
            self.pooled[number] = pool(hidden(output), self._mask, self._wanted.pooling)

        return take

    def _noting(self, number: int) -> Any:
        def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if given:
                self.entering[number] = _Entering(given[0], given[1:], dict(named), False)
            else:
                own = dict(named)
                states = own.pop("hidden_states")
                self.entering[number] = _Entering(states, (), own, True)

        return note
