"""What can be found out about a training without its weights: tokenizer, lengths, LoRA targets.

python -m trainers.checking FOLDER

check.json   out: {"examples", "kept", "overlong", "tokens", "learnt", "longest", "parameters",
             "device", "gpus", "packages"}
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from harness import registry
from harness.errors import DataError, UsageError
from harness.trainer import CHECK, read_examples, read_params, read_recipe
from harness.types import JSON, Recipe
from trainers.loading import check_targets, load_config, load_tokenizer
from trainers.preferences import pairs
from trainers.problems import read_problems
from trainers.running import run
from trainers.tokenizing import Counts, Tokenizing

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "bitsandbytes")


def main(folder: Path) -> None:
    recipe = read_recipe(folder)
    config = load_config(recipe)
    _check_context(recipe, config)
    if recipe.launcher in ("zero2", "zero3"):
        _check_deepspeed()
    counts = _tokens(folder, recipe, load_tokenizer(recipe))
    found = {**dataclasses.asdict(counts), **_model(recipe, config), **_machine()}
    (folder / CHECK).write_text(json.dumps(found) + "\n", encoding="utf-8")


def _check_context(recipe: Recipe, config: Any) -> None:
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if most is not None and recipe.max_length > most:
        raise UsageError(
            f"`max_length` {recipe.max_length} exceeds the {most} positions of `{recipe.model}`",
            f"`--set max_length={most}`",
        )


def _check_deepspeed() -> None:
    """It compiles nothing for a training of ours: AdamW and the sums over processes are torch's."""
    try:
        import deepspeed  # noqa: F401
    except Exception as error:  # of any kind: no CUDA_HOME, an ABI that is not ours
        raise UsageError(
            f"DeepSpeed does not work here: {str(error).strip() or type(error).__name__}",
            "`ds_report` says what it lacks (CUDA_HOME, say); or `--set launcher=ddp`",
        ) from error


def _tokens(folder: Path, recipe: Recipe, tokenizer: Any) -> Counts:
    trainer = registry.trainer(recipe.method)
    params = read_params(recipe, trainer)
    counts = Counts()
    tokenizing = Tokenizing(
        tokenizer=tokenizer,
        max_length=recipe.max_length,
        overlong="truncate" if getattr(params, "packing", "") == "wrapped" else recipe.overlong,
        train_on=getattr(params, "train_on", "completion"),
        eos=getattr(params, "eos", True),
    )
    if trainer.data == "problems":
        _check_prompts(folder, recipe, tokenizer, counts)
    else:
        examples = read_examples(folder)
        made: Iterator[object] = tokenizing.examples(examples, counts)
        if trainer.data == "preferences":
            made = pairs(examples, tokenizing, counts)
        for _ in made:  # counts as it goes, and raises
            pass
    if counts.kept == 0:
        raise DataError(
            f"no example fits into `max_length` {recipe.max_length}", "use a larger max_length"
        )
    return counts


def _check_prompts(folder: Path, recipe: Recipe, tokenizer: Any, counts: Counts) -> None:
    """Problems have no completion yet: the prompt must leave room for one."""
    lengths = [len(problem.prompt) for problem in read_problems(folder, recipe, tokenizer)]
    counts.examples = sum(1 for _ in read_examples(folder))
    counts.kept, counts.tokens, counts.longest = len(lengths), sum(lengths), max(lengths, default=0)
    counts.overlong = counts.examples - counts.kept


def _model(recipe: Recipe, config: Any) -> JSON:
    """The network without its weights: their number, and whether LoRA finds its layers."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=recipe.trust_remote_code)
    if recipe.lora is not None:
        check_targets(model, recipe.lora)
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def _machine() -> JSON:
    gpus = torch.cuda.device_count()
    name = torch.cuda.get_device_name(0) if gpus else f"{os.cpu_count()} CPUs"
    return {"device": name, "gpus": gpus, "packages": dict(_versions())}


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    run(main)
