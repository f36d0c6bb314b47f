"""The model that a worker of engine `hf` holds, and how the next one takes its place.

Another checkpoint of the same shape is read into the weights that are there; another adapter is put
on the base that is there. Everything else is loaded anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig

from harness.engines.loading import load_model, with_adapter
from harness.types import ModelSpec

# What a configuration says about its making, not about its shape.
_ABOUT = ("_name_or_path", "transformers_version", "use_cache", "_attn_implementation")


class Resident:
    def __init__(self) -> None:
        self._base: Any = None
        self._adapted: Any = None
        self._shape: object = None
        self._attention = ""
        self._path = ""

    def take(self, model: ModelSpec, config: Any, dtype: torch.dtype | None, device: Any) -> Any:
        """The model ready to answer; the one before is gone.

        Raises WorkerError as `loading.load_model` does.
        """
        shape = _shape(config, dtype, device)
        self._unwrap()
        if self._base is None or shape != self._shape or not self._put(model, config):
            self._base = None  # or two models would be held at once
            self._base = load_model(replace(model, adapter=None), config, dtype, device)
            self._attention = self._base.config._attn_implementation
        self._shape, self._path = shape, model.path
        if model.adapter is None:
            return self._base
        self._adapted = with_adapter(model, self._base)
        return self._adapted.eval()

    def _unwrap(self) -> None:
        """The base as it was loaded, without the adapter and the attention of the model before."""
        if self._adapted is not None:
            self._base, self._adapted = self._adapted.unload(), None
        if self._base is not None and self._base.config._attn_implementation != self._attention:
            self._base.set_attn_implementation(self._attention)

    def _put(self, model: ModelSpec, config: Any) -> bool:
        """Whether the base holds the weights of the model now."""
        if model.adapter is not None and model.path == self._path:
            return True
        if not _read_into(self._base, Path(model.path)):
            return False
        self._base.generation_config = _generation_config(model, config)
        return True


def _shape(config: Any, dtype: torch.dtype | None, device: Any) -> object:
    about = (*_ABOUT, "dtype") if dtype is not None else _ABOUT
    told = {name: value for name, value in config.to_dict().items() if name not in about}
    return told, dtype, str(device)


def _generation_config(model: ModelSpec, config: Any) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(model.path, revision=model.revision)
    except OSError:
        return GenerationConfig.from_model_config(config)


@torch.no_grad()
def _read_into(held: Any, folder: Path) -> bool:
    """Read a checkpoint of the same shape into a model; False, and nothing is touched, where its
    files do not have exactly the weights of the model."""
    own: dict[str, Tensor] = held.state_dict()
    files = sorted(folder.glob("*.safetensors"))
    try:
        if not _has_all(files, own):
            return False
    except (SafetensorError, OSError):  # to be told by whoever loads it anew
        return False
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 — not a dict
                own[name].copy_(opened.get_tensor(name))
    return True


def _has_all(files: list[Path], own: dict[str, Tensor]) -> bool:
    found: set[str] = set()
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 — not a dict
                if name not in own or list(own[name].shape) != opened.get_slice(name).get_shape():
                    return False
                found.add(name)
    # Tied weights are one tensor under two names, of which a file has one.
    places = {own[name].data_ptr() for name in found}
    return all(tensor.data_ptr() in places for tensor in own.values())
