"""How the methods with a loss of each token are put together: sft, dft, sft_kl, asft."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState

from harness.errors import UsageError
from harness.trainer import Trainer, read_params, read_recipe
from harness.types import Recipe
from trainers.demonstrations import Parts, prepared
from trainers.divergence import Params
from trainers.loading import DTYPES
from trainers.loading import start_model as start_model_of
from trainers.losses import Weighting
from trainers.reference import (
    AdaptersOff,
    Batch,
    CachedStates,
    FrozenCopy,
    StartModel,
    cache_is_whole,
    fill_cache,
    unsharded,
)
from trainers.running import train
from trainers.token_head import TokenLoss
from trainers.token_model import head_of
from trainers.token_trainer import TokenLossTrainer

STATES = "reference"
"""Folder of a run with the hidden states of the start model, where they are cached."""


def train_tokens(folder: Path, trainer: Trainer, *, weighting: Weighting) -> None:
    """Train from the files of a folder; with a divergence where the method has a reference."""
    recipe = read_recipe(folder)
    params = read_params(recipe, trainer)
    parts = prepared(folder, recipe, params)
    spec, start = TokenLoss(weighting=weighting), None
    if trainer.reference:
        spec = TokenLoss(
            weighting=weighting, kl_weight=params.kl_weight, direction=params.kl_direction
        )
        start = start_model(folder, recipe, params, parts)
    train(
        TokenLossTrainer(spec=spec, reduction=params.reduction, start=start, **parts.arguments),
        recipe,
        folder,
    )


def start_model(folder: Path, recipe: Recipe, params: Params, parts: Parts) -> StartModel:
    """What the policy is compared with. After a restart, too, it is the model of the recipe."""
    kind = params.reference
    if kind == "adapters_off" or (kind == "auto" and recipe.lora is not None):
        return AdaptersOff(peft=parts.model)
    copy = FrozenCopy(load_start_model(recipe))
    if kind != "cache":
        return copy
    return cached(folder / STATES, copy, recipe, parts)


def load_start_model(recipe: Recipe) -> Any:
    """The start model whole, under ZeRO-3 too, in the precision that is computed in."""
    if recipe.lora is not None and recipe.lora.quantization != "none":
        raise UsageError(
            "a frozen copy beside 4-bit weights would not be the model that training starts from",
            "`params.reference: adapters_off`",
        )
    with unsharded():
        return start_model_of(recipe, DTYPES[recipe.precision])


def cached(folder: Path, copy: FrozenCopy, recipe: Recipe, parts: Parts) -> CachedStates:
    """Each process computes its share, waits for the others, and keeps no more than the head."""
    state = PartialState()
    if not cache_is_whole(folder, state.num_processes):
        batches = _share(parts, recipe.micro_batch_size, state)
        fill_cache(folder, copy, batches, rank=state.process_index, processes=state.num_processes)
    state.wait_for_everyone()
    return CachedStates(folder, head_of(copy.model))


def _share(parts: Parts, size: int, state: PartialState) -> Iterator[Batch]:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=parts.tokenizer.pad_token_id)
    rows = parts.dataset.shard(state.num_processes, state.process_index)
    for start in range(0, len(rows), size):
        batch = collate([rows[i] for i in range(start, min(start + size, len(rows)))])
        yield {name: value.to(parts.config.device) for name, value in batch.items()}
