"""A checkpoint folder, read without torch: is it whole, what is it, what identifies its weights."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.finding import Finding
from harness.types import JSON, ModelSpec

WHOLE_FILE_BYTES = 64 * 1024 * 1024
BLOCK_BYTES = 16 * 1024
BLOCKS = 1024
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library

# What changes the answers besides the weights. Trainer state, logs and READMEs do not.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "chat_template.*",
    "*.py",
)
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
_SHARD = re.compile(r".*-\d{5}-of-(\d{5})\.safetensors")
_DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}


class TornFileError(Exception):
    """A weight file that is not whole; the message says in what."""


def trained_from(base: ModelSpec, folder: Path, *, name: str, run_id: str) -> ModelSpec:
    """The weights or the adapter in a folder as a model that a run trained from `base`."""
    own = replace(base, name=name, parent=base.name, run=run_id, fingerprint="")
    if (folder / "adapter_config.json").is_file():
        return replace(own, adapter=str(folder))
    return replace(own, path=str(folder), revision=None, adapter=None)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the small files and the weights of a checkpoint, as 64 hex digits.

    Weight files up to 64 MB are read whole. Of larger ones the header, the size and blocks of
    16 KB from every tensor are read, about a thousand in all: training moves values all over a
    tensor, so other weights under the same name are seen, in less than half a second for 16 GB.
    A hand edit of a few values between the blocks is not.
    """
    digest = hashlib.sha256()
    for path in _files(folder, _SMALL_FILES):
        _add(digest, path.name.encode(), path.read_bytes())
    for path in _files(folder, _WEIGHT_FILES):
        size = path.stat().st_size
        _add(digest, path.name.encode(), size.to_bytes(8, "big"))
        for block in _blocks(path, size):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def _add(digest: hashlib._Hash, *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            yield file.read()
            return
        try:
            header, data_start = read_header(path)
            spans = [
                (data_start + first, data_start + last)
                for first, last in (tensor["data_offsets"] for tensor in header.values())
            ]
        except TornFileError:  # not safetensors, or damaged: `check` says so, here it only counts
            data_start, spans = 0, [(i * size // 256, (i + 1) * size // 256) for i in range(256)]
        yield file.read(data_start)
        per_span = max(1, min(16, BLOCKS // max(1, len(spans))))
        for start, end in spans:
            for i in range(per_span):
                file.seek(start + i * max(0, end - start - BLOCK_BYTES) // max(1, per_span - 1))
                yield file.read(min(BLOCK_BYTES, end - start))


def read_header(path: Path) -> tuple[JSON, int]:
    """The tensors of a safetensors file (name → dtype, shape, data_offsets), and where data starts.

    Raises TornFileError where the header cannot be read or does not describe exactly this file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise TornFileError(f"`{path.name}` has no safetensors header")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        end = max((_end_of(name, tensor) for name, tensor in header.items()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise TornFileError(f"the header of `{path.name}` cannot be read") from None
    if 8 + length + end != size:
        raise TornFileError(f"`{path.name}` has {size:,} bytes, not {8 + length + end:,}")
    return header, 8 + length


def _end_of(name: str, tensor: JSON) -> int:
    first, last = tensor["data_offsets"]
    bits = _DTYPE_BITS.get(tensor["dtype"])
    for dimension in tensor["shape"]:
        bits = bits * dimension if bits is not None else None
    if not 0 <= first <= last or (bits is not None and bits != 8 * (last - first)):
        raise ValueError(f"tensor {name} does not fill its place")
    return int(last)


def check_weights(folder: Path) -> Finding:
    """Whether every weight file is there and whole; opens headers only."""
    index = folder / "model.safetensors.index.json"
    try:
        if (folder / "model.safetensors").is_file():
            sizes = [whole_file(folder / "model.safetensors")]
        elif index.is_file():
            sizes = [whole_file(folder / n, frozenset(t)) for n, t in _shards(index).items()]
        else:
            return _no_safetensors(folder)
    except TornFileError as error:
        return Finding(
            check="weights", level="bad", text=str(error), hint="copy or download the file again"
        )
    tensors, size = sum(t for t, _ in sizes), sum(s for _, s in sizes)
    text = f"{tensors} tensors in {len(sizes)} file(s), {size / 1e6:,.1f} MB"
    return Finding(check="weights", level="ok", text=text)


def whole_file(path: Path, expected: frozenset[str] = frozenset()) -> tuple[int, int]:
    """(tensors, bytes) of a safetensors file that holds at least the expected tensors.

    Raises TornFileError where it is missing or not whole.
    """
    if not path.is_file():
        raise TornFileError(f"`{path.name}` is missing")
    header, _ = read_header(path)
    if lacking := sorted(expected - set(header)):
        raise TornFileError(f"`{path.name}` lacks the tensor `{lacking[0]}` that the index names")
    return len(header), path.stat().st_size


def _shards(index: Path) -> dict[str, set[str]]:
    """File name → the tensors that the index places in it."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, set[str]] = {}
        for tensor, name in weight_map.items():
            shards.setdefault(name, set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TornFileError(f"`{index.name}` cannot be read") from None
    if not shards:
        raise TornFileError(f"`{index.name}` names no files")
    return shards


def _no_safetensors(folder: Path) -> Finding:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if shard := next((match for name in names if (match := _SHARD.fullmatch(name))), None):
        text = f"shards of {int(shard[1])} but no model.safetensors.index.json"
        hint = "copy the index file too; without it the shards cannot be put together"
        return Finding(check="weights", level="bad", text=text, hint=hint)
    if any(folder.glob("pytorch_model*.bin")):
        text = "only pickled weights (pytorch_model*.bin), which are not checked"
        hint = "save it again with `model.save_pretrained(folder)`, which writes safetensors"
        return Finding(check="weights", level="warn", text=text, hint=hint)
    text = "no model.safetensors" + (f", only `{names[0]}`" if names else "")
    return Finding(
        check="weights", level="bad", text=text, hint="save the model into this folder again"
    )


def read_json(path: Path) -> JSON | None:
    """The JSON object in the file; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What config.json says about the network; None where it does not say."""

    architecture: str | None
    hidden_dim: int | None
    num_layers: int | None
    context: int | None
    scaled_rope: bool
    own_code: bool


def read_config(folder: Path) -> Config | None:
    """None where config.json is absent or is no JSON object."""
    whole = read_json(folder / "config.json")
    if whole is None:
        return None
    text = whole.get("text_config")  # multimodal models keep the language model's values inside
    config = {**whole, **text} if isinstance(text, dict) else whole
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return Config(
        architecture=_name(whole.get("architectures")),
        hidden_dim=_first(config, "hidden_size", "n_embd", "d_model"),
        num_layers=_first(config, "num_hidden_layers", "n_layer", "num_layers"),
        context=_first(config, "max_position_embeddings", "n_positions", "max_seq_len"),
        scaled_rope=isinstance(rope, dict) and "factor" in rope,
        own_code="auto_map" in whole,
    )


def _name(architectures: object) -> str | None:
    return str(architectures[0]) if isinstance(architectures, list) and architectures else None


def _first(config: dict[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def has_tokenizer(folder: Path) -> bool:
    alone = ("tokenizer.json", "tokenizer.model", "spiece.model")
    if any((folder / name).is_file() for name in alone):
        return True
    # Some models bring their own vocabulary file and name the class in the configuration.
    words = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return words or (
        (folder / "tokenizer_config.json").is_file() and any(folder.glob("*.tiktoken"))
    )


def has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return bool((read_json(folder / "tokenizer_config.json") or {}).get("chat_template"))
