"""Tokenizer, configuration and weights of a model, or the reason why it cannot be loaded."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.engines.adapters import check_adapter
from harness.engines.kv_cache import is_out_of_memory
from harness.errors import WorkerError
from harness.types import ModelSpec

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SANE_LENGTH = 10**8  # tokenizers without a limit state one that is larger

# What transformers, safetensors and the json module raise over a damaged folder.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    StrictDataclassError,
    struct.error,
)


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")


def _bad(model: ModelSpec, reason: str) -> WorkerError:
    if Path(model.path).is_dir():
        return WorkerError(
            f"checkpoint `{model.path}` cannot be used: {reason}",
            "save or copy it again (config.json, *.safetensors, tokenizer.json)",
            cause="bad_checkpoint",
        )
    return WorkerError(
        f"model `{model.path}` cannot be loaded: {reason}",
        "check the hub id and the network, or give a folder",
        cause="bad_checkpoint",
    )


@contextlib.contextmanager
def _explained(model: ModelSpec, what: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if "trust_remote_code" in str(error):
            raise WorkerError(
                f"`{model.path}` brings its own code, which is not trusted",
                f"read it, then set `trust_remote_code` of `{model.name}` to true",
                cause="remote_code",
            ) from None
        raise _bad(model, f"{what}: {_first_sentence(error)}") from None
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise too_little_memory(model) from None
        raise _bad(model, f"{what}: {_first_sentence(error)}") from None
    except ImportError as error:
        raise WorkerError(
            f"`{model.path}` needs a package that is missing: {_first_sentence(error)}",
            "install it into the worker's environment",
            cause="import_error",
        ) from None


def too_little_memory(model: ModelSpec) -> WorkerError:
    return WorkerError(
        f"`{model.name}` does not fit into memory",
        "use `--set dtype=bfloat16`, another `--set device=`, or `--engine vllm` with more GPUs",
        cause="out_of_memory",
    )


def _where(model: ModelSpec) -> dict[str, Any]:
    return {"revision": model.revision, "trust_remote_code": model.trust_remote_code}


def load_config(model: ModelSpec) -> Any:
    with _explained(model, "configuration"):
        return AutoConfig.from_pretrained(model.path, **_where(model))


def load_tokenizer(model: ModelSpec) -> Any:
    with _explained(model, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(model.path, **_where(model))
    if not tokenizer.encode("a b", add_special_tokens=False):
        raise _bad(model, "tokenizer: it turns text into no tokens")
    return tokenizer


def context_length(model: ModelSpec, config: Any, tokenizer: Any, asked: int) -> int:
    """Tokens that one sequence may have. Raises WorkerError if more are asked for than fit."""
    stated = getattr(config.get_text_config(), "max_position_embeddings", None)
    if stated is None and tokenizer.model_max_length < _SANE_LENGTH:
        stated = tokenizer.model_max_length
    wanted = asked or model.max_model_len
    if stated is None and wanted is None:
        raise WorkerError(
            f"`{model.name}` does not say how long its context is",
            "use `--set max_model_len=4096`",
            cause="context_length",
        )
    if stated is not None and wanted is not None and wanted > stated:
        raise WorkerError(
            f"`max_model_len` {wanted} exceeds the {stated} positions of `{model.name}`",
            f"use `--set max_model_len={stated}` or less",
            cause="context_length",
        )
    return int(wanted or stated or 0)


def pick_device(model: ModelSpec, asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise WorkerError(
            f"device `{asked}` cannot be used for `{model.name}`: {_first_sentence(error)}",
            "use `--set device=cpu`, or `--set device=auto`",
            cause="device",
        ) from None
    return device


def pick_dtype(model: ModelSpec, asked: str, device: torch.device) -> torch.dtype | None:
    """None: the checkpoint's own."""
    name = model.dtype if asked == "auto" else asked
    if name == "auto":
        return torch.float32 if device.type == "cpu" else None
    if name not in _DTYPES:
        raise WorkerError(
            f"unknown dtype `{name}` for `{model.name}`",
            f"it can be auto, {', '.join(_DTYPES)}",
            cause="unsupported",
        )
    return _DTYPES[name]


def load_model(model: ModelSpec, config: Any, dtype: torch.dtype | None, device: Any) -> Any:
    """The causal model in evaluation mode. Weights that the checkpoint lacks are an error, since
    they would be random numbers."""
    _check_safetensors(model)
    with _explained(model, "weights"):
        loaded, report = AutoModelForCausalLM.from_pretrained(
            model.path,
            config=config,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
            **_where(model),
        )
        if missing := sorted(report["missing_keys"]):
            raise _bad(model, f"{len(missing)} weight(s) are missing, such as `{missing[0]}`")
        loaded = loaded.to(device)
        if model.adapter is not None:
            loaded = with_adapter(model, loaded)
    return loaded.eval()


def _check_safetensors(model: ModelSpec) -> None:
    """A local folder with a file cut short is named with that file."""
    for file in sorted(Path(model.path).glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise _bad(model, f"`{file.name}` is damaged ({_first_sentence(error)})") from None


def with_adapter(model: ModelSpec, loaded: Any) -> Any:
    assert model.adapter is not None
    try:
        from peft import PeftModel
    except ImportError:
        raise WorkerError(
            f"`{model.name}` has the adapter `{model.adapter}`, and peft is not installed",
            "pip install peft",
            cause="import_error",
        ) from None
    check_adapter(model)
    return PeftModel.from_pretrained(loaded, model.adapter)
