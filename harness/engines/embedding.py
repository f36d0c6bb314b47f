"""Requests of kind `embed` for engine `hf`, and a model that is steered for all its requests."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from harness.engines.activations import Activations, Wanted
from harness.engines.base import HFSettings
from harness.engines.forwarding import TreeModel
from harness.engines.layers import decoder_layers, layer_numbers
from harness.engines.steer_settings import parse_layers
from harness.engines.steering import Steered, check_fits, read_steering
from harness.engines.tokenizing import Prepared
from harness.engines.trie import size
from harness.types import Completion, ModelSpec


def embedded(
    tree: TreeModel, spec: ModelSpec, prepared: Sequence[Prepared], context: int
) -> Iterator[Completion]:
    """The activations of each prompt, in batches of like lengths. context: where texts were cut."""
    if not prepared:
        return
    started = time.monotonic()
    packing = tree.model.config._attn_implementation
    if packing != tree.own_attention:
        tree.model.set_attn_implementation(tree.own_attention)
    activations = Activations(tree.model, spec)
    for wanted, some in _alike(prepared, activations).items():
        for taken in activations.take([one.prompt for one in some], wanted):
            for row, vectors in zip(taken.rows, taken.vectors, strict=True):
                yield _completion(some[row], vectors, context, started)
    if packing != tree.own_attention:
        tree.model.set_attn_implementation(packing)


def _alike(prepared: Sequence[Prepared], activations: Activations) -> dict[Wanted, list[Prepared]]:
    found: dict[Wanted, list[Prepared]] = {}
    for one in prepared:
        layers = activations.numbers(one.request.layers)
        found.setdefault(Wanted(layers=layers, pooling=one.request.pooling or "mean"), []).append(
            one
        )
    return found


def _completion(one: Prepared, vectors: Tensor, context: int, started: float) -> Completion:
    return Completion(
        request_id=one.request.id,
        finish_reason="length" if size(one.prompt) >= context else "scored",
        prompt_tokens=size(one.prompt),
        latency_s=round(time.monotonic() - started, 4),
        prompt=one.text,
        vectors=tuple(
            base64.b64encode(layer.numpy().astype("<f4").tobytes()).decode() for layer in vectors
        ),
    )


def steer(model: Any, spec: ModelSpec, settings: HFSettings) -> Steered | None:
    """Steer a loaded model as the settings say, until that is removed."""
    if not settings.steer:
        return None
    layers = decoder_layers(model, spec)
    wanted = None
    if settings.steer_layers:
        wanted = layer_numbers(parse_layers(settings.steer_layers), len(layers), spec.name)
    keep = settings.steer_norm == "keep"
    steering = read_steering(settings.steer, settings.steer_lambda, keep_norm=keep, layers=wanted)
    check_fits(steering, model.config.get_text_config().hidden_size, len(layers), spec.name)
    steered = Steered(layers, steering)
    steered.install()
    return steered
