"""One forward over a part of a trie: many branches in one sequence, no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from harness.engines import grouped_attention
from harness.engines.kv_cache import BufferCache, is_out_of_memory
from harness.engines.trie import Forward, Layout, SortedPaths, lay_out, pack, plan, unpack

_PROBE_CHUNK = 24  # less than the probe's rows together, so that a part of them is cached first
_MASK_ALIGNMENT = 8  # the fused GPU kernels read a mask whose rows start at multiples of this


class TreeModel:
    """A causal model that computes the nodes of a trie.

    Each token sees those of its own row before it: an attention mask and the position of each
    token say which they are. What is below the base of a forward stays in the cache.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.own_attention: str = model.config._attn_implementation
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.forwards = 0
        self.tokens = 0
        self.token_bytes = 0  # of the cache, per token; known after the probe
        self.cache = BufferCache()

    def forget(self) -> None:
        self.cache = BufferCache()

    def compute(self, forward: Forward, layout: Layout, wanted: Sequence[int]) -> Tensor:
        """Logits (len(wanted), vocabulary) of the tokens at these indices of the layout."""
        self.cache.cut(forward.base)
        # A forward whose logits nobody wants still has to name some.
        keep = torch.tensor(wanted or [len(layout.depths) - 1], device=self.device)
        ids = torch.frombuffer(bytearray(layout.ids), dtype=torch.int32).long()
        self.forwards += 1
        self.tokens += len(layout.depths)
        return self._logits(
            ids[None].to(self.device),
            torch.tensor([layout.depths], device=self.device),
            self._mask(layout, forward.base),
            keep,
            self.cache,
        )[0]

    def decode(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: BufferCache) -> Tensor:
        """Logits (batch, vocabulary) after one more token of each row. tokens, positions: (batch,).
        mask: (batch, tokens in the cache with this one), added to the attention scores."""
        self.forwards += 1
        keep = torch.zeros(1, dtype=torch.long, device=self.device)
        return self._logits(
            tokens[:, None], positions[:, None], mask[:, None, None, :], keep, cache
        )[:, 0]

    def _logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, keep: Tensor, cache: BufferCache
    ) -> Tensor:
        output = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: Tensor = output.logits
        return logits

    def _mask(self, layout: Layout, base: int) -> Tensor:
        """(1, 1, tokens, base + tokens): 0 where a token is seen, the least number where not."""
        count = len(layout.depths)
        index = torch.arange(count, device=self.device)
        exits = torch.tensor(layout.exits, device=self.device)
        hidden = (index[None, :] > index[:, None]) | (exits[None, :] <= index[:, None])
        width = -(-(base + count) // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
        mask = torch.zeros((count, width), dtype=self.dtype, device=self.device)
        mask[:, base : base + count].masked_fill_(hidden, torch.finfo(self.dtype).min)
        return mask[None, None, :, : base + count]


def agrees_with_plain(tree: TreeModel, longest: int) -> bool:
    """Whether this model computes a trie as it computes each of its rows alone.

    Found out by doing both. Sliding windows that the longest row leaves, linear attention, and
    distances in place of positions (ALiBi) make a model differ; some take no such mask at all.
    """
    model = tree.model
    _attend_with(model, tree.own_attention)
    if not _attends_to_all(model.config, longest):
        return False
    rows = _probe_rows(model.config.get_text_config().vocab_size, longest)
    alone = [_plain_logprobs(model, path) for path in rows.paths]
    plain = torch.cat([*alone, alone[0][-1:]])
    if tree.own_attention == "sdpa":
        grouped_attention.register()
        _attend_with(model, grouped_attention.NAME)
    agrees = _computes(tree, rows, plain)
    if not agrees:
        _attend_with(model, tree.own_attention)
    return agrees


def _attend_with(model: Any, implementation: str) -> None:
    if model.config._attn_implementation != implementation:
        model.set_attn_implementation(implementation)


def _computes(tree: TreeModel, rows: SortedPaths, expected: Tensor) -> bool:
    """Whether the trie of these rows, and a step of decoding, give these log-probabilities."""
    counts = tree.forwards, tree.tokens
    try:
        packed = torch.cat([_packed_logprobs(tree, rows), _decoded_logprobs(tree, rows)])
        tree.token_bytes = tree.cache.bytes_per_token()
    except (TypeError, ValueError, IndexError, AttributeError):
        return False
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return False
    finally:
        tree.forget()
        tree.forwards, tree.tokens = counts
    # Rounding grows with the numbers; a token that sees too much or too little shows far more.
    epsilon = torch.finfo(tree.dtype).eps
    tolerance = max(1e-4, 1.5 * epsilon * expected.abs().mean().item())
    close = packed.shape == expected.shape and (packed - expected).abs().mean() <= tolerance
    return bool(close)


def _attends_to_all(config: Any, longest: int) -> bool:
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            if layer.sliding_window < longest:
                return False
        elif type(layer) is not DynamicLayer:
            return False
    return not _stretches_positions(config.get_text_config(), longest)


def _stretches_positions(config: Any, longest: int) -> bool:
    """Whether a long row in the same forward changes the positions of a short one."""
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, dict) and rope.get("rope_type") in ("dynamic", "longrope"):
            trained = rope.get("original_max_position_embeddings")
            if longest > (trained or config.max_position_embeddings):
                return True
    return False


def _probe_rows(vocabulary: int, longest: int) -> SortedPaths:
    """Rows with a long shared start, a fork below it, a short fork, and one that stands alone."""
    stem = min(20, max(1, longest - 8))

    def tokens(seed: int, count: int) -> list[int]:
        return [(seed * 7919 + 104729 * i) % vocabulary for i in range(1, count + 1)]

    start, fork = tokens(1, stem), tokens(2, 3)
    tails = [tokens(3, 4), tokens(4, 2), tokens(5, 4)]
    return SortedPaths.of(
        pack(row)
        for row in (
            start + fork + tails[0],
            start + fork + tails[1],
            start + tails[2],
            tokens(6, min(12, longest)),
        )
    )


def _plain_logprobs(model: Any, path: bytes) -> Tensor:
    ids = torch.frombuffer(bytearray(path), dtype=torch.int32).long()[None].to(model.device)
    return model(input_ids=ids).logits[0].float().log_softmax(-1)  # type: ignore[no-any-return]


def _packed_logprobs(tree: TreeModel, rows: SortedPaths) -> Tensor:
    """Log-probabilities (all tokens of all rows, vocabulary), row after row."""
    found: dict[tuple[int, int], Tensor] = {}
    for forward in plan(rows, _PROBE_CHUNK):
        layout = lay_out(forward, rows)
        logits = tree.compute(forward, layout, range(len(layout.depths)))
        for part, places in zip(forward.parts, layout.places, strict=True):
            for row in part.readers:
                found |= {(row, forward.base + i): logits[place] for i, place in enumerate(places)}
    return torch.stack([found[key] for key in sorted(found)]).float().log_softmax(-1)


def _decoded_logprobs(tree: TreeModel, rows: SortedPaths) -> Tensor:
    """(1, vocabulary) after the last token of the first row, decoded as in generation."""
    *start, last = unpack(rows.paths[0])
    without_last = SortedPaths.of([pack(start)])
    for forward in plan(without_last, _PROBE_CHUNK):
        tree.compute(forward, lay_out(forward, without_last), [])
    device = tree.device
    logits = tree.decode(
        torch.tensor([last], device=device),
        torch.tensor([len(start)], device=device),
        torch.zeros((1, len(start) + 1), dtype=tree.dtype, device=device),
        tree.cache,
    )
    return logits.float().log_softmax(-1)
