from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import byte_level_tokenizer, causal_model, save_checkpoint

from harness.engines.base import HFSettings
from harness.engines.hf import HFEngine
from harness.errors import WorkerError
from harness.types import ModelSpec


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = byte_level_tokenizer()
    return save_checkpoint(tmp_path_factory.mktemp("m"), causal_model("llama", len(words)), words)


def load(folder: Path | str, **spec: Any) -> None:
    HFEngine(ModelSpec(name="m", path=str(folder), **spec), HFSettings()).load()


def cut_file_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def forget_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def resize_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def forget_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
    "weights cut short": (cut_file_short, "model.safetensors"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "a weight missing": (forget_a_weight, "up_proj"),
    "a weight of another shape": (resize_a_weight, "weights"),
    "config not JSON": (lambda f: (f / "config.json").write_text('{"model'), "config.json"),
    "config without type": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "config of wrong type": (
        lambda f: (f / "config.json").write_text('{"model_type": "llama", "hidden_size": "x"}'),
        "hidden_size",
    ),
    "no tokenizer": (
        forget_the_tokenizer,
        "tokenizer",
    ),
    "tokenizer not JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_checkpoint_is_named_with_the_reason(
    whole: Path, tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "broken"))
    spoil, sign = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(WorkerError, match=sign) as error:
        load(folder)
    assert error.value.cause == "bad_checkpoint"
    assert f"`{folder}`" in error.value.message
    assert error.value.hint


def test_a_model_split_over_gpus_is_not_for_this_engine(whole: Path) -> None:
    with pytest.raises(WorkerError, match="2 GPUs") as error:
        load(whole, tensor_parallel_size=2)
    assert error.value.cause == "unsupported"


def test_an_adapter_without_peft_says_what_to_install(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(WorkerError, match="peft") as error:
        load(whole, adapter="/some/adapter")
    assert (error.value.cause, error.value.hint) == ("import_error", "pip install peft")


def test_an_unknown_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WorkerError, match="`/no/such/folder`") as error:
        load("/no/such/folder")
    assert error.value.cause == "bad_checkpoint"
    assert error.value.hint


@pytest.mark.parametrize(
    ("settings", "cause"),
    [({"dtype": "float99"}, "unsupported"), ({"device": "abacus"}, "device")],
)
def test_a_setting_that_cannot_be_honoured_is_named(
    whole: Path, settings: dict[str, Any], cause: str
) -> None:
    (value,) = settings.values()
    engine = HFEngine(ModelSpec(name="m", path=str(whole)), HFSettings(**settings))
    with pytest.raises(WorkerError, match=f"`{value}`") as error:
        engine.load()
    assert error.value.cause == cause
