"""Recipes: what is refused before anything starts, with the path and a hint."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from harness import models, recipe_check, recipes
from harness.errors import UsageError
from harness.types import Lora, ModelSpec, Optimizer

SPEC = ModelSpec(name="Tiny/base", path="/tiny")


def checked(name: str = "tiny_sft", **settings: str) -> None:
    asked = recipes.read(name, {key.replace("__", "."): text for key, text in settings.items()})
    recipe_check.check(asked, asked.resolved(SPEC), SPEC)


@pytest.mark.parametrize(
    ("key", "message", "hint"),
    [
        ("epoch", "unknown key `epoch`", "did you mean `epochs`?"),
        ("learning_rate", "unknown key `learning_rate`", "it belongs at `optimizer.learning_rate`"),
        ("optimizer.epochs", "unknown key `optimizer.epochs`", "it belongs at `epochs`"),
        ("params.packin", "unknown key `params.packin`", "did you mean `packing`?"),
        ("data.sources.0.splt", "unknown key `data.sources.0.splt`", "did you mean `split`?"),
        ("lora.ranks", "unknown key `lora.ranks`", "did you mean `rank`?"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_the_nearest(
    key: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        recipes.read("tiny_sft", {key: "1"})
    assert error.value.message.startswith(message)
    assert error.value.hint == hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "`precision` in"),
        ({"optimizer.learning_rate": "fast"}, "`optimizer.learning_rate` in"),
        ({"method": "sftt"}, "unknown training method `sftt`"),
        ({"data.template": "alpacca"}, "`data.template` in"),
        ({"lora.targets": "q_proj"}, "`lora.targets` in"),
    ],
)
def test_a_value_that_cannot_be_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        recipes.read("tiny_sft", settings)
    assert error.value.message.startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch_size": "5"}, "`global_batch_size` 32 is not a multiple of"),
        ({"num_processes": "2", "micro_batch_size": "1"}, "`launcher: single` is one process"),
        ({"device": "cuda", "num_processes": "64", "launcher": "ddp", "micro_batch_size": "1",
          "global_batch_size": "64"}, "the recipe asks for 64 GPU(s)"),
        ({"precision": "fp16", "device": "auto"}, "`precision: fp16` with all weights learning"),
        ({"epochs": "null"}, "the recipe never ends"),
        ({"max_steps": "0"}, "`max_steps: 0` is not above 0"),
        ({"report_to": "[comet]"}, "unknown tracker `comet`"),
        ({"tasks": "[arithmetics]"}, "unknown task `arithmetics`"),
        ({"params.reduction": "sequence", "params.packing": "documents"}, "`params.reduction"),
        ({"optimizer.warmup_ratio": "3"}, "`optimizer.warmup_ratio: 3.0` is no share"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_it_starts(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        checked(**{key.replace(".", "__"): text for key, text in settings.items()})
    assert error.value.message.startswith(message)
    assert error.value.hint


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("tiny_grpo", "params__rollouts", "vllm", "`params.rollouts: vllm` shares a GPU"),
        ("tiny_sft", "lora", "{quantization: 4bit}", "`lora.quantization: 4bit` needs a GPU"),
    ],
)
def test_what_needs_a_gpu_is_refused_on_a_cpu(
    name: str, key: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        checked(name, **{key: value})
    assert error.value.message.startswith(message)
    assert error.value.hint is not None
    assert error.value.hint.startswith("`--set ")


def test_packages_that_a_recipe_needs_are_named_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = importlib.util.find_spec
    gone = {"vllm", "deepspeed", "peft", "tensorboard"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else there(name)
    )
    monkeypatch.setattr(recipe_check, "on_cpu", lambda recipe: False)
    cases = {
        "vllm": ("tiny_grpo", {"params__rollouts": "vllm"}, "`pip install 'tunebench[vllm]'`"),
        "deepspeed": ("tiny_sft", {"launcher": "zero2"}, "`pip install deepspeed`"),
        "peft": ("tiny_sft", {"lora": "{rank: 4}"}, "`pip install peft`"),
        "tensorboard": ("tiny_sft", {"report_to": "[tensorboard]"}, "`pip install tensorboard`"),
    }
    for module, (name, settings, hint) in cases.items():
        with pytest.raises(UsageError) as error:
            checked(name, **settings)
        assert (error.value.message, error.value.hint) == (
            f"the recipe needs `{module}`",
            hint,
        )


def test_fp16_with_all_weights_can_be_forced() -> None:
    checked(precision="fp16", device="auto", allow_fp16="true")


def test_accumulation_follows_from_the_batch_sizes() -> None:
    asked = recipes.read("asft_medical_sft", {})
    assert asked.resolved(SPEC).accumulation == 2


def test_a_recipe_that_extends_another_changes_only_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny_sft\noptimizer: {weight_decay: 0.1}\nlora: {rank: 4}\n")
    recipe = recipes.read(str(path), {}).resolved(SPEC)
    assert recipe.optimizer == Optimizer(
        learning_rate=1e-3, schedule="cosine", warmup_ratio=0.05, weight_decay=0.1
    )
    assert recipe.lora == Lora(rank=4)
    assert recipe.max_length == 256


def test_a_recipe_may_not_extend_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: mine\n")
    with pytest.raises(UsageError, match="extends itself"):
        recipes.read(str(path), {})


def test_a_recipe_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        recipes.read("tiny_sftt", {})
    assert error.value.hint == "did you mean `tiny_sft`?"


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_names_a_registered_model_and_a_batch_that_divides(
    name: str, tmp_path: Path
) -> None:
    asked = recipes.read(name, {})
    recipe = asked.resolved(models.model(asked.shape.model, tmp_path))
    assert recipe.accumulation * recipe.micro_batch_size * recipe.num_processes == (
        recipe.global_batch_size
    )
    if asked.trainer.check is not None:
        asked.trainer.check(recipe)
