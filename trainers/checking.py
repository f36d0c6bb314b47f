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
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from harness import registry
from harness.errors import DataError, UsageError
from harness.trainer import CHECK, read_examples, read_params, read_recipe
from harness.types import JSON, Recipe
from trainers.loading import check_targets, load_config, load_tokenizer
from trainers.running import run
from trainers.tokenizing import Counts, Tokenizing

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "bitsandbytes")


def main(folder: Path) -> None:
    recipe = read_recipe(folder)
    config = load_config(recipe)
    _check_context(recipe, config)
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
    pairs = (pair for example in read_examples(folder) for pair in _pairs(example, trainer.data))
    if trainer.data == "problems":
        _check_prompts(folder, recipe, tokenizer, counts)
    else:
        for _ in tokenizing.examples(pairs, counts):
            pass
    if counts.kept == 0:
        raise DataError(
            f"no example fits into `max_length` {recipe.max_length}", "use a larger max_length"
        )
    return counts


def _pairs(example: JSON, data: str) -> list[JSON]:
    if data == "preferences":
        answers = (example["chosen"], example["rejected"])
        return [{"prompt": example["prompt"], "completion": answer} for answer in answers]
    return [example]


def _check_prompts(folder: Path, recipe: Recipe, tokenizer: Any, counts: Counts) -> None:
    """Problems have no completion yet: the prompt must leave room for one."""
    for example in read_examples(folder):
        counts.examples += 1
        ids = _prompt_ids(example["prompt"], tokenizer)
        counts.longest = max(counts.longest, len(ids))
        if len(ids) >= recipe.max_length:
            counts.overlong += 1
        else:
            counts.kept += 1
            counts.tokens += len(ids)
    if counts.overlong and recipe.overlong == "error":
        raise DataError(
            f"{counts.overlong} of {counts.examples} prompts leave no room in `max_length` "
            f"{recipe.max_length}, the longest has {counts.longest} tokens",
            "`--set overlong=drop`, or a larger max_length",
        )


def _prompt_ids(prompt: str | list[JSON], tokenizer: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if tokenizer.chat_template is None:
        raise UsageError(
            "the prompts are messages, and the tokenizer has no chat template",
            "`--set chat_template=FILE.jinja`, or a template of text such as `alpaca`",
        )
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


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
