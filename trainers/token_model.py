"""A causal language model that gives hidden states, or the loss of its tokens, but no logits.

Both come out of `model.forward` itself, not from its parts called one by one: only then do the
wrappers of DDP, DeepSpeed and FSDP gather parameters and hook gradients as they must.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput
from trl.trainer.utils import maybe_gather_lm_head_ctx

from harness.errors import UsageError
from trainers.losses import IGNORED
from trainers.token_head import Head, Reference, TokenLoss, token_loss


@dataclass
class TokenOutput(ModelOutput):  # type: ignore[misc]
    """Scalars over all positions that count; or hidden states, (batch, seq, dim)."""

    loss: Tensor | None = None
    kl: Tensor | None = None
    entropy: Tensor | None = None
    correct: Tensor | None = None
    hidden: Tensor | None = None


def attach_token_loss(model: Any) -> None:
    """Make `model(**inputs, labels=, shares=, token_loss=, reference=)` give a `TokenOutput` of
    the loss, and `model(**inputs, states_only=True)` one of hidden states.

    labels, shares: (batch, seq), where labels[b, t] is the token at t, as a collator gives them.
    Any other call is what it was. For PEFT, attach to the model inside.
    """
    original = model.forward

    @functools.wraps(original)
    def forward(
        self: Any,
        *args: Any,
        token_loss: TokenLoss | None = None,
        states_only: bool = False,
        shares: Tensor | None = None,
        reference: Reference | None = None,
        **kwargs: Any,
    ) -> Any:
        if states_only:
            return TokenOutput(hidden=_states(self, kwargs))
        if token_loss is None:
            return original(*args, **kwargs)
        assert shares is not None
        labels = kwargs.pop("labels")
        return _loss(self, _states(self, kwargs), labels, shares, token_loss, reference)

    model.forward = types.MethodType(forward, model)


def _states(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    states: Tensor = model.base_model(**{**inputs, "use_cache": False}).last_hidden_state
    return states


def _loss(
    model: Any,
    states: Tensor,
    labels: Tensor,
    shares: Tensor,
    spec: TokenLoss,
    reference: Reference | None,
) -> TokenOutput:
    counted = counted_positions(labels)
    layer = model.get_output_embeddings()
    with maybe_gather_lm_head_ctx(layer.weight, layer.bias):
        head = head_of(model)
        if reference is not None and reference.head is None:
            reference = dataclasses.replace(reference, head=head)
        sums = token_loss(
            states[:, :-1][counted],
            head,
            labels[:, 1:][counted],
            shares[:, 1:][counted],
            spec,
            reference,
        )
    return TokenOutput(loss=sums.loss, kl=sums.kl, entropy=sums.entropy, correct=sums.correct)


def counted_positions(labels: Tensor) -> Tensor:
    """Which positions predict a token that counts: (batch, seq - 1), booleans."""
    return labels[:, 1:] != IGNORED


def head_of(model: Any) -> Head:
    """The projection of a causal language model, with what its config does to the logits.

    Raises UsageError where an adapter sits on the head: its weight alone is not what it computes.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear and not hasattr(layer, "weight"):
        raise UsageError(f"the head of `{type(model).__name__}` has no weight")
    config = model.config.get_text_config()
    return Head(
        weight=_whole(layer.weight),
        bias=None if layer.bias is None else _whole(layer.bias),
        scale=_logit_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _whole(parameter: Tensor) -> Tensor:
    """FSDP2 shards parameters as DTensors; the product needs all of it."""
    full: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return full


def _logit_scale(config: Any) -> float:
    """What models call it differently for, by their configs (Cohere, Falcon-H1, Granite)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1 / float(scaling)
