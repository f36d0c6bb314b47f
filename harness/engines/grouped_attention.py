"""Attention of one new token per row, for models whose queries share keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "tunebench_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers' `sdpa` computes, (batch, tokens, heads, width), without its copies.

    Under a mask that repeats the whole cache for every query of a group, at each step. The queries
    of a group stand in for tokens here, which is the same when there is one token.
    """
    batch, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    if tokens > 1 or groups == 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, key.shape[1], groups, width),
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return output.reshape(batch, 1, heads, value.shape[-1]), None


def register() -> None:
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
