"""What is wrong with a recipe on this machine, found before its data are read or a model loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from harness import registry
from harness.errors import UsageError
from harness.recipes import Asked
from harness.training_process import gpu_count, on_cpu
from harness.types import ModelSpec, Recipe

_TRACKERS = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboard"}


def check(asked: Asked, recipe: Recipe, spec: ModelSpec) -> None:
    """Raises UsageError for the first thing that cannot be."""
    for error in _problems(asked, recipe, spec):
        raise error


def _problems(asked: Asked, recipe: Recipe, spec: ModelSpec) -> Iterator[UsageError]:
    yield from _length(recipe)
    yield from _batches(recipe)
    yield from _processes(recipe)
    yield from _precision(asked, recipe)
    yield from _packages(recipe)
    for name in asked.shape.tasks:
        registry.tasks(name)
    if asked.trainer.check is not None:
        asked.trainer.check(recipe)


def _length(recipe: Recipe) -> Iterator[UsageError]:
    if recipe.method == "command":
        return
    if recipe.epochs is None and recipe.max_steps is None:
        yield UsageError("the recipe never ends", "add `epochs: 1` or `max_steps: 100`")
    counts = {"max_steps": recipe.max_steps, "epochs": recipe.epochs}
    counts |= {"log_steps": recipe.log_steps, "max_length": recipe.max_length}
    for name, value in counts.items():
        if value is not None and value <= 0:
            yield UsageError(f"`{name}: {value}` is not above 0", f"`--set {name}=1`, or more")
    for name, least in {"save_steps": recipe.save_steps, "keep": recipe.keep_checkpoints}.items():
        if least < 0:
            yield UsageError(f"`{name}: {least}` is below 0", "use 0 or more")
    if recipe.optimizer.learning_rate <= 0:
        yield UsageError(
            f"`optimizer.learning_rate: {recipe.optimizer.learning_rate}` is not above 0",
            "such as 1.0e-5",
        )
    for name in ("warmup_ratio", "min_lr_ratio"):
        share = getattr(recipe.optimizer, name)
        if not 0 <= share < 1:
            yield UsageError(f"`optimizer.{name}: {share}` is no share", "from 0 to below 1")


def _batches(recipe: Recipe) -> Iterator[UsageError]:
    parts = {"global_batch_size": recipe.global_batch_size, "num_processes": recipe.num_processes}
    parts |= {"micro_batch_size": recipe.micro_batch_size, "num_machines": recipe.num_machines}
    for name, value in parts.items():
        if value < 1:
            yield UsageError(f"`{name}: {value}` is below 1", f"`--set {name}=1`")
            return
    at_once = recipe.micro_batch_size * recipe.num_processes
    if recipe.global_batch_size % at_once:
        yield UsageError(
            f"`global_batch_size` {recipe.global_batch_size} is not a multiple of "
            f"`micro_batch_size` {recipe.micro_batch_size} × `num_processes` "
            f"{recipe.num_processes} = {at_once}",
            f"`--set global_batch_size={-(-recipe.global_batch_size // at_once) * at_once}`",
        )
    if recipe.num_processes % recipe.num_machines:
        yield UsageError(
            f"`num_processes` {recipe.num_processes} cannot be spread over "
            f"{recipe.num_machines} machines alike",
            "`num_processes` counts those of all machines together",
        )


def _processes(recipe: Recipe) -> Iterator[UsageError]:
    if recipe.launcher == "single" and recipe.num_processes > 1:
        yield UsageError(
            f"`launcher: single` is one process, and `num_processes` is {recipe.num_processes}",
            "`--set launcher=ddp`",
        )
    if recipe.launcher == "fsdp" and recipe.device == "cpu":
        yield UsageError(
            "`launcher: fsdp` on CPUs: accelerate would run DDP instead",
            "`--set launcher=zero3`, which shards on CPUs too, or use GPUs",
        )
    if recipe.device == "cpu" or recipe.method == "command":
        return
    here, there = recipe.num_processes // recipe.num_machines, gpu_count()
    wanted = recipe.device == "cuda" or here > 1
    if wanted and here > there:
        yield UsageError(
            f"the recipe asks for {here} GPU(s) on this machine, which has {there}",
            "lower `num_processes`, or `--set device=cpu`",
        )


def _precision(asked: Asked, recipe: Recipe) -> Iterator[UsageError]:
    if recipe.precision == "fp16" and recipe.lora is None and not asked.shape.allow_fp16:
        yield UsageError(
            "`precision: fp16` with all weights learning: small gradients vanish and large ones "
            "overflow, and such runs end untrained without an error",
            "`--set precision=bf16`, or LoRA; `--set allow_fp16=true` does it all the same",
        )
    if recipe.precision == "fp16" and recipe.device == "cpu":
        yield UsageError("`precision: fp16` does not train on a CPU", "`--set precision=fp32`")
    if recipe.lora is not None and recipe.lora.rank < 1:
        yield UsageError(f"`lora.rank: {recipe.lora.rank}` is below 1", "such as 8")
    if recipe.lora is not None and not recipe.lora.targets:
        yield UsageError("`lora.targets` is empty", "`targets: [all-linear]`")


def _packages(recipe: Recipe) -> Iterator[UsageError]:
    needed = {"trl": "'tunebench[train]'"} if recipe.method != "command" else {}
    if recipe.launcher in ("zero2", "zero3"):
        needed["deepspeed"] = "deepspeed"
    if recipe.lora is not None or recipe.adapter is not None:
        needed["peft"] = "peft"
    if recipe.lora is not None and recipe.lora.quantization == "4bit":
        needed["bitsandbytes"] = "bitsandbytes"
        if on_cpu(recipe):
            yield UsageError(
                "`lora.quantization: 4bit` needs a GPU, and the recipe runs without one",
                "`--set lora.quantization=none`",
            )
    if recipe.params.get("rollouts") == "vllm":
        if on_cpu(recipe):
            yield UsageError(
                "`params.rollouts: vllm` shares a GPU with the training, and there is none",
                "`--set params.rollouts=transformers`",
            )
        needed["vllm"] = "'tunebench[vllm]'"
    for tracker in recipe.report_to:
        if tracker not in _TRACKERS:
            yield UsageError(
                f"unknown tracker `{tracker}` in `report_to`", f"there are: {', '.join(_TRACKERS)}"
            )
        needed[_TRACKERS.get(tracker, tracker)] = tracker
    for module, package in needed.items():
        if importlib.util.find_spec(module) is None:
            yield UsageError(f"the recipe needs `{module}`", f"`pip install {package}`")


def template_file(recipe: Recipe) -> None:
    """Raises UsageError where the chat template is a file that is not there."""
    if recipe.chat_template not in ("model", "none") and not Path(recipe.chat_template).is_file():
        raise UsageError(
            f"there is no chat template `{recipe.chat_template}`", "`model`, `none` or a Jinja file"
        )
