"""LoRA adapters: whether one belongs to a base, found out from file headers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.errors import WorkerError
from harness.types import ModelSpec

_PREFIX = "base_model.model."
_MATRICES = (".lora_A.weight", ".lora_B.weight")


def adapter_rank(adapter: str) -> int:
    """The largest rank that any module of the adapter has."""
    config: dict[str, Any] = json.loads((Path(adapter) / "adapter_config.json").read_text())
    ranks = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    return max(map(int, ranks))


def check_adapter(model: ModelSpec) -> None:
    """Raises WorkerError where the adapter has no weights or was trained on another base.

    Compared are the widths of each adapted module with those in the checkpoint's files.
    """
    assert model.adapter is not None
    found = _shapes(Path(model.adapter))
    shapes = {name: shape for name, shape in found if name.endswith(_MATRICES)}
    if not shapes:
        raise WorkerError(
            f"the adapter `{model.adapter}` has no LoRA matrices that can be read",
            "save it again with peft's `save_pretrained`",
            cause="bad_checkpoint",
        )
    base = dict(_shapes(Path(model.path)))
    if not base:  # weights in another format, or not downloaded yet: the engine will find out
        return
    adapted = [(*_module_side(name), shape) for name, shape in shapes.items()]
    known = [(m, side, shape) for m, side, shape in adapted if f"{m}.weight" in base]
    if not known:
        raise _other_base(model, f"the base has no `{adapted[0][0]}`")
    for module, side, shape in known:
        width = base[f"{module}.weight"][side]
        if width != shape[side]:
            what = f"`{module}` is {width} wide in the base and {shape[side]} in the adapter"
            raise _other_base(model, what)


def _module_side(name: str) -> tuple[str, int]:
    """The adapted module, and which side of its weight this matrix touches: 1 reads, 0 writes.

    >>> _module_side("base_model.model.layers.0.up_proj.lora_A.weight")
    ('layers.0.up_proj', 1)
    """
    module, _, part = name.removeprefix(_PREFIX).rpartition(".lora_")
    return module, int(part == "A.weight")


def _other_base(model: ModelSpec, reason: str) -> WorkerError:
    config = json.loads((Path(model.adapter or "") / "adapter_config.json").read_text())
    trained = config.get("base_model_name_or_path") or "a base that it does not name"
    return WorkerError(
        f"the adapter of `{model.name}` is of another base: {reason}",
        f"it was trained on `{trained}`; set `path` of `{model.name}` to that model",
        cause="adapter_mismatch",
    )


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    yield name, tensors.get_slice(name).get_shape()
        except (SafetensorError, OSError):
            return
