from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import finished_run
from typer.testing import CliRunner

from harness import runs
from harness.cli.app import app
from harness.errors import UsageError
from harness.estimate import USUAL_EFFICIENCY, Speed, Workload, calibrated, estimate, gpus, shape
from harness.footprint import Shape, checkpoint_gb, memory, operations_per_token, training_tokens
from harness.shipped import shipped
from harness.types import Lora, ModelSpec, Optimizer, Recipe, to_json

LLAMA = Shape(layers=32, hidden=4096, intermediate=14336, vocabulary=128256, kv_share=0.25)


def recipe(method: str = "sft", **changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "model": "Llama3_8B/base",
        "model_path": "meta-llama/Llama-3.1-8B",
        "optimizer": Optimizer(learning_rate=1e-5),
        "epochs": 1.0,
        "gradient_checkpointing": True,
        "max_length": 2048,
    }
    return Recipe(method=method, **{**fields, **changes})


def estimated(asked: Recipe, gpu: str, examples: int = 12_000, tokens: float = 190) -> Any:
    (cards,) = gpus(gpu)
    work = Workload(examples=examples, tokens=tokens, source="")
    return estimate(asked, LLAMA, work, cards, Speed(efficiency=USUAL_EFFICIENCY, source=""))


def test_all_weights_of_an_8b_model_take_16_bytes_each_on_one_gpu() -> None:
    m = memory(recipe(), LLAMA)
    assert (m.weights + m.gradients + m.optimizer) / 8.03 == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize(
    ("launcher", "per_weight"),
    [("ddp", 16), ("zero2", 2 + (2 + 12) / 8), ("zero3", 16 / 8), ("fsdp", 16 / 8)],
)
def test_launchers_divide_what_they_shard(launcher: Any, per_weight: float) -> None:
    m = memory(recipe(launcher=launcher, num_processes=8), LLAMA)
    assert (m.weights + m.gradients + m.optimizer) / 8.03 == pytest.approx(per_weight, rel=0.01)


def test_lora_keeps_frozen_weights_in_16_or_4_bit() -> None:
    half = memory(recipe(lora=Lora(rank=8)), LLAMA)
    quarter = memory(recipe(lora=Lora(rank=8, quantization="4bit")), LLAMA)
    assert half.weights == pytest.approx(16.1, rel=0.02)
    assert quarter.weights == pytest.approx(4.5, rel=0.05)
    assert half.optimizer < 0.3


def test_a_reference_model_is_a_second_copy_unless_lora_can_be_switched_off() -> None:
    assert memory(recipe("dpo"), LLAMA).reference == pytest.approx(16.06, rel=0.01)
    assert memory(recipe("dpo", lora=Lora()), LLAMA).reference == 0
    assert memory(recipe("sft"), LLAMA).reference == 0


def test_checkpointing_trades_memory_for_operations() -> None:
    plain = recipe(gradient_checkpointing=False)
    assert memory(plain, LLAMA).activations > 5 * memory(recipe(), LLAMA).activations
    assert operations_per_token(recipe(), LLAMA) == operations_per_token(plain, LLAMA) * 8 / 6


def test_tokens_are_those_of_all_epochs_or_steps() -> None:
    assert training_tokens(recipe(epochs=2.0), 100, 50) == 10_000
    assert training_tokens(recipe(epochs=2.0, max_steps=3), 100, 50) == 3 * 32 * 50
    assert training_tokens(recipe("dpo"), 100, 5_000) == 100 * 2 * 2048


def test_the_reference_table_is_met_in_its_order_of_magnitude() -> None:
    lora = estimated(recipe(lora=Lora(rank=16)), "A40-48GB")
    assert lora.fits
    assert lora.hours == pytest.approx(40 / 60, rel=0.3)
    full = estimated(recipe(epochs=2.0, launcher="zero3"), "A100-80GB×8", 939_344, 450)
    assert full.fits
    assert 8 / 3 < full.hours < 8 * 3
    assert full.usd == pytest.approx(full.hours * 8 * 2.0)


def test_what_does_not_fit_says_what_would() -> None:
    found = estimated(recipe(), "A40-48GB")
    assert not found.fits
    assert found.remedies[0] == "lora (rank 16) with gradient_checkpointing: true"
    assert any(text.startswith("A40-48GB×4, launcher: zero3") for text in found.remedies)
    assert estimated(recipe(lora=Lora()), "A40-48GB").remedies == ()


def test_sampling_methods_get_no_time() -> None:
    found = estimated(recipe("grpo"), "H100-80GB×8")
    assert (found.hours, found.usd) == (None, None)


def test_gpus_are_named_with_their_number() -> None:
    assert [
        (one.name, one.count) for one in gpus("A40, H100-80GB×8,h200-141gb x2".replace(" ", ""))
    ] == [*(("A40-48GB", 1), ("H100-80GB", 8), ("H200-141GB", 2))]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("A100", "known are: A100-40GB, A100-80GB"), ("H100-81GB", "did you mean `H100-80GB`?")],
)
def test_an_unknown_gpu_is_refused_with_those_that_are_near(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"unknown GPU `{name}`") as error:
        gpus(name)
    assert error.value.hint == hint


def test_the_size_comes_from_the_config_or_the_name(tmp_path: Path) -> None:
    tiny = shipped("harness/tiny/base")
    assert shape(ModelSpec(name="Tiny/base", path=str(tiny)), tmp_path).parameters < 2_000_000
    named = shape(ModelSpec(name="x", path="some-org/Some-13B-chat"), tmp_path)
    assert named.parameters == pytest.approx(13e9, rel=0.05)
    with pytest.raises(UsageError, match="the size of `x` is not known"):
        shape(ModelSpec(name="x", path="some-org/Some-chat"), tmp_path)


def test_runs_in_the_history_calibrate_the_speed(tmp_path: Path) -> None:
    (cards,) = gpus("A40-48GB")
    assert calibrated(tmp_path, cards).efficiency == USUAL_EFFICIENCY
    asked = recipe(model_path=str(shipped("harness/tiny/base")))
    tiny = shape(ModelSpec(name="Tiny/base", path=asked.model_path), tmp_path)
    fields = {
        "kind": "train",
        "device": "NVIDIA A40",
        "gpus": 1,
        "recipe": {"resolved": to_json(asked)},
    }
    run = finished_run(tmp_path, "t1", **fields)
    half = 0.5 * 149.7e12 / operations_per_token(asked, tiny)
    lines = [
        {"step": step, "epoch": 0, "metric": "tokens_per_second", "value": value}
        for step, value in enumerate([1.0, half, half, half])
    ]
    path = runs.folder_of(tmp_path, run.run_id) / "steps.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = calibrated(tmp_path, cards)
    assert found.efficiency == pytest.approx(0.5)
    assert found.source == "1 training run(s) on A40-48GB in the history"
    (other,) = gpus("H100-80GB")
    assert calibrated(tmp_path, other).source == "1 training run(s) on other GPUs in the history"


def test_checkpoints_take_room_for_moments_only_while_they_are_kept() -> None:
    final = checkpoint_gb(recipe(), LLAMA)
    assert final == pytest.approx(16.06, rel=0.01)
    kept = checkpoint_gb(replace(recipe(), save_steps=10, keep_checkpoints=2), LLAMA)
    assert kept == pytest.approx(final + 2 * 12 * 8.03, rel=0.01)


def run(tmp_path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["estimate", *arguments, "--home", str(tmp_path)])


def test_the_command_prints_json_and_fails_where_nothing_fits(tmp_path: Path) -> None:
    done = run(tmp_path, "tiny_sft", "--gpu", "A40-48GB", "--json")
    assert done.exit_code == 0
    (found,) = json.loads(done.stdout)
    assert (found["fits"], found["gpus"]["name"], found["tokens"] > 1e5) == (True, "A40-48GB", True)
    big = run(tmp_path, "tiny_sft", "--gpu", "L4", "--set", "model=some-org/Big-70B")
    assert big.exit_code == 1
