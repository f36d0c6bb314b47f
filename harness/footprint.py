"""What a training run takes: bytes on each GPU and floating-point operations, by arithmetic.

How weights are held is that of `trainers.loading`: all in float32 where all learn, in the precision
of the recipe where LoRA leaves them alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.types import Recipe

GB = 1e9
_CONTEXT_GB = 1.5
"""CUDA context, communication buffers, kernels."""
_FRAGMENTATION = 1.08
_LAYER_BYTES = 34
"""Bytes kept per token and hidden unit of one layer in 16 bit, with attention that is not stored
(Korthikanti et al. 2022, arXiv 2205.05198, section 4.1 without the quadratic part)."""
_PER_PREFERENCE = 2
_PREFERENCES = ("dpo", "dpo_norm")
ROLLOUTS = ("grpo", "dr_grpo", "rloo", "ppo")
_REFERENCES = ("asft", "sft_kl", "dpo", "dpo_norm", "ppo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder as far as size goes. kv_share: width of keys and values over that of queries."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    kv_share: float = 1.0
    tied: bool = False
    source: str = ""

    @property
    def parameters(self) -> int:
        """Weights of all matrices.

        >>> llama = Shape(
        ...     layers=32, hidden=4096, intermediate=14336, vocabulary=128256, kv_share=0.25
        ... )
        >>> round(llama.parameters / 1e9, 2)
        8.03
        """
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self._layer() + embeddings

    def _layer(self) -> int:
        attention = self.hidden * self.hidden * (2 + 2 * self.kv_share)
        return round(attention + 3 * self.hidden * self.intermediate)

    def adapters(self, rank: int, share: float = 1.0) -> int:
        """Weights of LoRA adapters on a share of all linear layers."""
        h, kv, wide = self.hidden, self.hidden * self.kv_share, self.intermediate
        sides = 2 * (h + h) + 2 * (h + kv) + 3 * (h + wide)
        return round(self.layers * rank * sides * share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Gigabytes (1e9 bytes) on each GPU at the peak."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    reference: float
    other: float

    @property
    def total(self) -> float:
        parts = self.weights + self.gradients + self.optimizer + self.activations + self.reference
        return parts * _FRAGMENTATION + self.other


def trained(recipe: Recipe, shape: Shape) -> int:
    """How many weights learn."""
    if recipe.lora is None:
        return shape.parameters
    every = recipe.lora.targets == ("all-linear",)
    # A layer has seven linear parts; naming some of them trains about that share.
    share = 1.0 if every else min(1.0, len(recipe.lora.targets) / 7)
    return shape.adapters(recipe.lora.rank, share)


def memory(recipe: Recipe, shape: Shape) -> Memory:
    """What each GPU holds at the peak of a step."""
    n = recipe.num_processes
    learning, frozen = trained(recipe, shape), shape.parameters
    sharded = n if recipe.launcher in ("zero3", "fsdp") else 1
    half = 4 if recipe.precision == "fp32" else 2
    if recipe.lora is None:
        weights, gradients, states = _full(recipe, frozen, half)
    else:
        held = {"4bit": 0.55}.get(recipe.lora.quantization, float(half))
        spread = n if recipe.launcher != "single" and recipe.launcher != "ddp" else 1
        weights = held * frozen / sharded + 4 * learning
        gradients, states = 4 * learning / spread, 8 * learning / spread
    copied = recipe.lora is None and recipe.method in _REFERENCES
    return Memory(
        weights=weights / GB,
        gradients=gradients / GB,
        optimizer=states / GB,
        activations=_activations(recipe, shape, half) / GB,
        reference=(half * frozen / sharded if copied else 0.0) / GB,
        other=_CONTEXT_GB,
    )


def _full(recipe: Recipe, weights: int, half: int) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimiser where all weights learn."""
    n = recipe.num_processes
    match recipe.launcher:
        case "zero2":
            # A copy to compute with on every GPU; masters, gradients and moments in shares.
            return half * weights, half * weights / n, (4 + 8) * weights / n
        case "zero3":
            return half * weights / n, half * weights / n, (4 + 8) * weights / n
        case "fsdp":
            return 4 * weights / n, 4 * weights / n, 8 * weights / n
        case _:
            return 4.0 * weights, 4.0 * weights, 8.0 * weights


def _activations(recipe: Recipe, shape: Shape, half: int) -> float:
    sequences = recipe.micro_batch_size * (_PER_PREFERENCE if _pairs(recipe) else 1)
    tokens = sequences * recipe.max_length
    one_layer = _LAYER_BYTES * half / 2 * tokens * shape.hidden
    kept = half * tokens * shape.hidden * shape.layers + one_layer
    layers = kept if recipe.gradient_checkpointing else one_layer * shape.layers
    # TRL's SFT never holds all logits; the other methods hold them once in float32.
    chunk = min(tokens, 1024) if recipe.method == "sft" else tokens
    return layers + 2 * 4 * chunk * shape.vocabulary


def _pairs(recipe: Recipe) -> bool:
    return recipe.method in _PREFERENCES


def operations_per_token(recipe: Recipe, shape: Shape) -> float:
    """Floating-point operations for one token of training: 2 forward, 4 backward per weight.

    LoRA saves the gradients of frozen weights (2), recomputed activations and a reference model
    each cost another forward pass.
    """
    passes = 6.0 if recipe.lora is None else 4.0
    passes += 2.0 if recipe.gradient_checkpointing else 0.0
    passes += 2.0 if recipe.method in _REFERENCES else 0.0
    return passes * shape.parameters


def training_tokens(recipe: Recipe, examples: int, tokens: float) -> float:
    """Tokens of the whole training; tokens: of one sequence, at most `max_length` count."""
    each = min(tokens, recipe.max_length) * (_PER_PREFERENCE if _pairs(recipe) else 1)
    seen = examples * recipe.epochs if recipe.epochs is not None else float("inf")
    if recipe.max_steps is not None:
        seen = min(seen, recipe.max_steps * recipe.global_batch_size)
    return seen * each


def checkpoint_gb(recipe: Recipe, shape: Shape, steps: int = 0, more: int = 0) -> float:
    """What the run leaves on disk: the trained weights, and each kept checkpoint with moments.

    steps: of the whole training, 0 where unknown. more: checkpoints beside those of `save_steps`.
    """
    final = (2 if recipe.precision != "fp32" else 4) * shape.parameters
    if recipe.lora is not None:
        final = 4 * trained(recipe, shape)
    saved = (steps // recipe.save_steps if steps else 3) if recipe.save_steps else 0
    kept = min(saved + more, recipe.keep_checkpoints or saved + more)
    return (final + kept * 12 * trained(recipe, shape)) / GB


def shape_of(config: dict[str, Any], source: str) -> Shape:
    """The shape that a model's config.json tells. Raises KeyError for one that lacks its names."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    width = int(config.get("head_dim") or hidden // heads)
    return Shape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or 4 * hidden),
        vocabulary=int(config["vocab_size"]),
        kv_share=int(config.get("num_key_value_heads") or heads) * width / hidden,
        tied=bool(config.get("tie_word_embeddings", False)),
        source=source,
    )
