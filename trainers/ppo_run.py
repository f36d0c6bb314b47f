"""A training run of PPO in its folder: what is read, logged, saved, and gone on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from harness.trainer import CHECKPOINT, CHECKPOINTS, read_examples, read_recipe, write_step
from harness.types import JSON, Recipe
from trainers.experience import Problem
from trainers.loading import load_policy
from trainers.ppo import check
from trainers.ppo_training import PPO
from trainers.rewards import sample_from_json

STATE = "ppo_state.pt"
_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(folder: Path) -> None:
    recipe = read_recipe(folder)
    check(recipe)
    accelerator = Accelerator(
        mixed_precision=_MIXED[recipe.precision], log_with=list(recipe.report_to) or None
    )
    policy, tokenizer = load_policy(recipe)
    ppo = PPO(accelerator, recipe, policy, tokenizer, list(_problems(folder, tokenizer)))
    saved = last_checkpoint(folder)
    if saved is not None:
        ppo.restore(torch.load(saved / STATE, map_location="cpu", weights_only=True))
    accelerator.init_trackers("tunebench", config={"method": recipe.method})
    logged = kept = ppo.step
    for measures in ppo.rounds():
        if accelerator.is_main_process and _due(logged, ppo.step, recipe.log_steps):
            write_step(folder, ppo.step, measures, ppo.epoch)
            accelerator.log(measures, step=ppo.step)
            logged = ppo.step
        if _due(kept, ppo.step, recipe.save_steps):
            save_checkpoint(folder, ppo, tokenizer)
            kept = ppo.step
    if accelerator.is_main_process:
        _save_model(folder / CHECKPOINT, ppo, tokenizer)
    accelerator.end_training()


def _due(last: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` steps lies between: rounds may take several steps."""
    return every > 0 and now // every > last // every


def _problems(folder: Path, tokenizer: Any) -> Iterator[Problem]:
    for example in read_examples(folder):
        yield Problem(
            prompt=encode(tokenizer, example["prompt"]), sample=sample_from_json(example["sample"])
        )


def encode(tokenizer: Any, prompt: str | list[JSON]) -> list[int]:
    """Text as it stands; messages through the chat template, up to where the answer begins."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def last_checkpoint(folder: Path) -> Path | None:
    saved = {path.parent for path in (folder / CHECKPOINTS).glob(f"checkpoint-*/{STATE}")}
    return max(saved, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def save_checkpoint(folder: Path, ppo: PPO, tokenizer: Any) -> None:
    """A model that can be evaluated, with all that the run can go on from.

    It bears its name only once it is whole, so that a kill leaves no half one.
    """
    state = ppo.state()
    if ppo.accelerator.is_main_process:
        place = folder / CHECKPOINTS / f"checkpoint-{ppo.step}"
        _save_model(place, ppo, tokenizer, {STATE: state})
        _drop_old(folder, ppo.recipe)
    ppo.accelerator.wait_for_everyone()


def _save_model(place: Path, ppo: PPO, tokenizer: Any, beside: JSON | None = None) -> None:
    begun = place.with_name(f".{place.name}")
    shutil.rmtree(begun, ignore_errors=True)
    ppo.actor.policy.save_pretrained(begun)
    tokenizer.save_pretrained(begun)
    for name, value in (beside or {}).items():
        torch.save(value, begun / name)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(begun, place)


def _drop_old(folder: Path, recipe: Recipe) -> None:
    saved = sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=_step)
    for old in saved[: -recipe.keep_checkpoints] if recipe.keep_checkpoints else []:
        shutil.rmtree(old)
