"""Whether a training changed anything: the saved weights against those it started from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from harness.types import Recipe

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def weights_changed(checkpoint: Path, recipe: Recipe) -> bool | None:
    """False where every weight is, as saved, what it was before; None where that cannot be told.

    An adapter changes nothing while the second matrix of each pair is zero, as it begins.
    """
    if (checkpoint / "adapter_config.json").exists():
        return any(
            bool(tensor.any())
            for name, tensor in _tensors([checkpoint / "adapter_model.safetensors"])
            if "lora_B" in name or "lora_embedding_B" in name
        )
    before = _start_files(recipe)
    if not before:
        return None
    after = dict(_tensors(sorted(checkpoint.glob("*.safetensors"))))
    compared = False
    for name, tensor in _tensors(before):
        if name in after:
            compared = True
            if not torch.equal(tensor.to(after[name].dtype), after[name]):
                return True
    return False if compared else None


def _start_files(recipe: Recipe) -> list[Path]:
    where = {"revision": recipe.model_revision, "_raise_exceptions_for_missing_entries": False}
    if single := cached_file(recipe.model_path, _SINGLE, **where):
        return [Path(single)]
    if index := cached_file(recipe.model_path, _INDEX, **where):
        files, _ = get_checkpoint_shard_files(
            recipe.model_path, index, revision=recipe.model_revision
        )
        return [Path(file) for file in files]
    return []


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 — not a dict
                yield name, opened.get_tensor(name)
