"""A key-value cache that is written in place, cut back for nothing and gathered from by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_FIRST_CAPACITY = 256


class BufferLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, (batch, heads, tokens, width), with room to grow.

    transformers' own layer copies everything for each token that is added.
    """

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self.length = 0
        self._key_room: Tensor | None = None
        self._value_room: Tensor | None = None
        if keys is not None and values is not None:
            self.update(keys, values)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = self.length + key_states.shape[-2]
        self._key_room = self._written(self._key_room, key_states, stop)
        self._value_room = self._written(self._value_room, value_states, stop)
        self.cut(stop)
        return self.keys, self.values

    def _written(self, room: Tensor | None, states: Tensor, stop: int) -> Tensor:
        if room is None or room.shape[-2] < stop:
            capacity = max(_FIRST_CAPACITY, stop + stop // 4)
            grown = states.new_empty((*states.shape[:-2], capacity, states.shape[-1]))
            if room is not None:
                grown[..., : self.length, :] = room[..., : self.length, :]
            room = grown
        room[..., self.length : stop, :] = states
        return room

    def cut(self, length: int) -> None:
        assert self._key_room is not None
        assert self._value_room is not None
        self.length = length
        self.keys = self._key_room[..., :length, :]
        self.values = self._value_room[..., :length, :]

    def get_seq_length(self) -> int:
        return self.length


class BufferCache(DynamicCache):  # type: ignore[misc]
    """A cache of `BufferLayer`s; the model adds them as it comes to them."""

    def __init__(self, layers: list[BufferLayer] | None = None) -> None:
        super().__init__()
        self.layer_class_to_replicate = BufferLayer
        self.layers = layers or []

    def cut(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        if length:
            for layer in self.layers:
                layer.cut(length)
        else:
            self.layers = []

    def rows(self, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer at `places` (rows, tokens) of a cache with batch size 1:
        each (rows, heads, tokens, width)."""
        return [(_gather(layer.keys, places), _gather(layer.values, places)) for layer in self]

    def __iter__(self) -> Any:
        return iter(self.layers)

    def bytes_per_token(self) -> int:
        return sum(
            states.shape[0] * states.shape[1] * states.shape[3] * states.element_size()
            for layer in self.layers
            for states in (layer.keys, layer.values)
        )


def _gather(states: Tensor, places: Tensor) -> Tensor:
    picked = states[0].index_select(1, places.reshape(-1))
    heads, _, width = picked.shape
    return picked.reshape(heads, *places.shape, width).transpose(0, 1)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a GPU or (by the text of torch's error) on a CPU."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in text for sign in ("can't allocate memory", "out of memory", "not enough memory")
    )
