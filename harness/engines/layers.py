"""The decoder layers of a model and what goes in and out of them, by hooks of our own.

`output_hidden_states` is no use here: its last entry is after the final norm, it keeps every layer,
and hooks that transformers puts there at its first use see a layer before or after ours do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import WorkerError
from harness.types import ModelSpec

POOLINGS = ("mean", "last")


def decoder_layers(model: Any, spec: ModelSpec) -> nn.ModuleList:
    """Raises WorkerError where the model has no such list of layers."""
    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise WorkerError(
        f"`{spec.name}` has no list of {wanted} decoder layers to look into",
        "activations can be taken from models whose layers are a torch ModuleList",
        cause="unsupported",
    )


def backbone(model: Any) -> Any:
    """The model without its head: logits of every token would cost more than some layers."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(bare, bare.base_model_prefix, bare)


def hidden(output: Any) -> Tensor:
    """The hidden states in what a layer returns: a tensor, before transformers 5 a tuple."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def with_hidden(output: Any, states: Tensor) -> Any:
    """The same return value with other hidden states in it."""
    return (states, *output[1:]) if isinstance(output, tuple) else states


def layer_numbers(layers: tuple[int, ...], count: int, name: str) -> tuple[int, ...]:
    """From 0, sorted; -1 is the last. Raises WorkerError for one that does not exist."""
    for layer in layers:
        if not -count <= layer < count:
            raise WorkerError(
                f"`{name}` has no layer {layer}",
                f"its {count} layers are 0 to {count - 1}, or -{count} to -1",
                cause="unsupported",
            )
    return tuple(sorted({layer % count for layer in layers}))


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector for each row, (rows, width) in float32.

    states: (rows, tokens, width). mask: (rows, tokens), 1 for tokens, on whichever side the padding
    is. `last` takes the last token that is none.
    """
    if pooling == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * (positions + 1)).argmax(dim=1)
        return states[torch.arange(len(last), device=mask.device), last].float()
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)
