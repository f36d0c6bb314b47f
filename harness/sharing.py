"""Which models can be served by one engine start: adapters of one base, checkpoints of one shape.

Read from the JSON files of checkpoint folders alone; nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.checkpoints import read_json
from harness.engines.base import SHARED, replicated
from harness.types import JSON, ModelSpec

# What a configuration says about its making, not about its shape.
_ABOUT = ("_name_or_path", "transformers_version", "torch_dtype", "use_cache", "model_type_hint")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
# Arguments under which weights that are read into place need not be the checkpoint's.
_FIXED_WEIGHTS = ("quantization", "quantization_config", "load_format", "hf_overrides")

Started = tuple[ModelSpec, str, JSON]  # a model, its engine, the engine's settings


def groups(models: Sequence[Started]) -> list[list[Started]]:
    """The models in groups, each to be served by one engine start. Groups come in the order of
    their first models; within a group, models with the same weights follow each other."""
    adapted = {spec.path for spec, _, _ in models if spec.adapter is not None}
    found: dict[str, list[Started]] = {}
    for one in models:
        found.setdefault(_key(one, adapted), []).append(one)
    return list(found.values())


def _key(started: Started, adapted: set[str]) -> str:
    """Equal for models that one start can serve."""
    spec, engine, settings = started
    if engine not in SHARED or replicated(settings):
        return spec.name
    arguments = {**spec.engine_args, **settings.get("engine_args", {})}
    shape = _shape(spec, arguments, adapted)
    numbers = [spec.dtype, spec.max_model_len, spec.trust_remote_code, spec.engine_args]
    sizes = [spec.tensor_parallel_size, spec.pipeline_parallel_size, spec.data_parallel_size]
    return json.dumps([engine, settings, shape, numbers, sizes], sort_keys=True)


def _shape(spec: ModelSpec, arguments: JSON, adapted: set[str]) -> str:
    if spec.path in adapted:
        return f"base {spec.path}"
    config = read_json(Path(spec.path) / "config.json") if os.path.isabs(spec.path) else None
    if (
        config is None
        or "quantization_config" in config
        or not arguments.keys().isdisjoint(_FIXED_WEIGHTS)
    ):
        return f"alone {spec.name}"
    own = {name: value for name, value in config.items() if name not in _ABOUT}
    return _digest([own, *(_content(Path(spec.path) / name) for name in _TOKENIZER)])


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
