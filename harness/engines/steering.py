"""Steering: a vector added to the residual stream behind chosen layers, at every position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from harness.engines.layers import hidden, with_hidden
from harness.errors import WorkerError

_EPSILON = 1e-8


def steered(states: Tensor, vector: Tensor, strength: float, *, keep_norm: bool) -> Tensor:
    """states + strength * vector, with keep_norm scaled back to the norm that each token had.

    states: (…, width). vector: (width,). Strength 0 gives `states` itself.
    """
    if strength == 0:
        return states
    wide = states.float()
    shifted = wide + strength * vector.to(wide)
    if keep_norm:
        norm = wide.norm(dim=-1, keepdim=True)
        shifted = shifted * (norm / (shifted.norm(dim=-1, keepdim=True) + _EPSILON))
    return shifted.to(states.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """vectors: by the number of the layer behind which each is added, (width,)."""

    vectors: dict[int, Tensor]
    strength: float
    keep_norm: bool = True

    @property
    def first(self) -> int:
        """The first layer whose output differs from the model's own."""
        return min(self.vectors)

    def behind(self, layer: int, states: Tensor) -> Tensor:
        vector = self.vectors.get(layer)
        if vector is None:
            return states
        return steered(states, vector, self.strength, keep_norm=self.keep_norm)


class Steered:
    """A model while it is steered: `with Steered(layers, steering): …`, or from `install` to
    `remove`.

    The hooks change what layers return and no weight, so without them the model is what it was.
    """

    def __init__(self, layers: nn.ModuleList, steering: Steering) -> None:
        self._layers, self._steering = layers, steering
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        for number in self._steering.vectors:
            self._handles.append(self._layers[number].register_forward_hook(self._hook(number)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Steered:
        self.install()
        return self

    def __exit__(self, *ending: object) -> None:
        self.remove()

    def _hook(self, number: int) -> Any:
        def change(module: nn.Module, given: Any, output: Any) -> Any:
            return with_hidden(output, self._steering.behind(number, hidden(output)))

        return change


def read_steering(
    path: str, strength: float, *, keep_norm: bool, layers: Sequence[int] | None = None
) -> Steering:
    """From a vector file (npz: `vectors` (layers, width), `layers`); layers: only these of it.

    Raises WorkerError for a file that is none, and for a layer that it does not have.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as stored:
            numbers, vectors = stored["layers"].tolist(), stored["vectors"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise WorkerError(
            f"`{path}` is no steering vector: {error}",
            "`bench steer` writes them to steering/vectors/ and names the file",
            cause="bad_vector",
        ) from None
    if missing := [layer for layer in layers or () if layer not in numbers]:
        raise WorkerError(
            f"`{path}` has no vector for layer {missing[0]}",
            f"it has vectors for the layers {', '.join(map(str, numbers))}",
            cause="bad_vector",
        )
    kept = numbers if layers is None else layers
    return Steering(
        vectors={n: torch.from_numpy(vectors[numbers.index(n)]).float() for n in kept},
        strength=strength,
        keep_norm=keep_norm,
    )


def check_fits(steering: Steering, width: int, count: int, name: str) -> None:
    """Raises WorkerError where a vector is for another model."""
    for number, vector in steering.vectors.items():
        if number >= count or tuple(vector.shape) != (width,):
            raise WorkerError(
                f"the vector for layer {number} has {vector.numel()} dimensions, `{name}` has "
                f"{count} layers of {width}",
                "steer the model that the vector was taken for",
                cause="bad_vector",
            )
