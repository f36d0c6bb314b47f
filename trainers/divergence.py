"""The parameters of the methods that stay close to the model they started from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from harness.trainer import Trainer, read_params
from harness.types import Recipe
from trainers import sft


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(sft.Params):
    """kl_weight: of the divergence from the start model, over the whole vocabulary and in float32.
    kl_direction: `forward` is KL(start || policy), as published. reference: how the start model is
    had: `adapters_off` (LoRA only), a `frozen` copy on each device, a `cache` of its hidden states
    in the run folder; `auto` is adapters_off under LoRA, else frozen."""

    kl_weight: float = 0.05
    kl_direction: Literal["forward", "reverse"] = "forward"
    reference: Literal["auto", "adapters_off", "frozen", "cache", "none"] = "auto"


def check(recipe: Recipe, trainer: Trainer) -> None:
    """Raises UsageError for what cannot be trained, before anything is loaded."""
    sft.check(recipe)
    params: Params = read_params(recipe, trainer)
    if not params.kl_weight > 0:
        without = "sft" if trainer.name == "sft_kl" else "dft"
        raise UsageError(
            f"`params.kl_weight: {params.kl_weight}`: {trainer.name} needs one above 0",
            f"without a divergence it is `method: {without}`",
        )
    if params.reference == "none":
        raise UsageError(
            f"`params.reference: none`: {trainer.name} has nothing to stay close to",
            "`params.reference: auto`, or a method without a divergence: sft, dft",
        )
    if params.reference == "adapters_off" and recipe.lora is None:
        raise UsageError(
            "`params.reference: adapters_off` without a `lora` section: there are no adapters",
            "add `lora`, or set `params.reference: frozen`",
        )
    if params.reference == "cache" and params.packing != "none":
        raise UsageError(
            "`params.reference: cache` keeps states by example, and packing mixes these",
            "`params.packing: none`, or `params.reference: frozen`",
        )
