"""Checkpoint folders for tests, written by hand: no torch, a few hundred bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}


def safetensors(tensors: Mapping[str, bytes]) -> bytes:
    """A safetensors file of one-dimensional U8 tensors."""
    header: dict[str, Any] = {}
    start = 0
    for name, data in tensors.items():
        end = start + len(data)
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [start, end]}
        start = end
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"".join(tensors.values())


def write_checkpoint(
    folder: Path, weights: bytes = b"weights!", template: bool = True, **config: Any
) -> Path:
    """A whole checkpoint; `config` changes values of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "model.safetensors").write_bytes(safetensors({"embed": weights, "head": b"12"}))
    (folder / "tokenizer.json").write_text("{}")
    if template:
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def write_adapter(folder: Path, weights: bytes = b"lora") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    described = {"base_model_name_or_path": "org/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    (folder / "adapter_model.safetensors").write_bytes(safetensors({"lora_A": weights}))
    return folder


def write_snapshot(cache: Path, repository: str, commit: str, **config: Any) -> Path:
    """A downloaded model as huggingface_hub lays it out, with `main` at that commit."""
    stored = cache / f"models--{repository.replace('/', '--')}"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text(commit)
    return write_checkpoint(stored / "snapshots" / commit, **config)
