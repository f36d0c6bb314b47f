"""A training run of PPO in its folder: what is read, logged, saved, and gone on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from harness.trainer import CHECKPOINTS, read_recipe, write_step
from harness.types import Recipe
from trainers.checkpoints import last_checkpoint, mark_whole
from trainers.loading import load_model, load_tokenizer
from trainers.points import points_of
from trainers.ppo import check
from trainers.ppo_training import PPO
from trainers.problems import read_problems
from trainers.running import save
from trainers.snapshots import Snapshots
from trainers.watching import forget_steps_after

STATE = "ppo_state.pt"
_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(folder: Path) -> None:
    recipe = read_recipe(folder)
    check(recipe)
    accelerator = Accelerator(
        cpu=recipe.device == "cpu",
        mixed_precision=_MIXED[recipe.precision],
        log_with=list(recipe.report_to) or None,
        project_dir=folder,
    )
    ppo, tokenizer = prepared(folder, recipe, accelerator)
    accelerator.init_trackers("tunebench", config=dict(recipe.params))
    points = points_of(folder, main=accelerator.is_main_process)
    if points is not None:
        points.begin(ppo.steps, tokenizer)
    logged = kept = ppo.step
    snapshots = Snapshots(folder)
    for measures in ppo.rounds():
        if accelerator.is_main_process and _due(logged, ppo.step, recipe.log_steps):
            write_step(folder, ppo.step, measures, ppo.epoch)
            accelerator.log(measures, step=ppo.step)
            logged = ppo.step
        wanted = snapshots.due(kept, ppo.step)
        if wanted or _due(kept, ppo.step, recipe.save_steps):
            save_checkpoint(folder, ppo, tokenizer)
            kept = ppo.step
        if wanted:
            snapshots.offer(ppo.step, first=accelerator.is_main_process)
        if points is not None and points.at(ppo.step, ppo.actor.policy):
            break
    if accelerator.is_main_process and points is None:
        save(ppo.actor.policy, tokenizer, folder, recipe)
    accelerator.wait_for_everyone()
    if recipe.report_to:
        accelerator.end_training()


def prepared(folder: Path, recipe: Recipe, accelerator: Accelerator) -> tuple[PPO, Any]:
    """The run, as it stood at its last checkpoint, and the tokenizer."""
    tokenizer = load_tokenizer(recipe)
    problems = read_problems(folder, recipe, tokenizer)
    policy = load_model(recipe, tokenizer)
    if recipe.gradient_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    ppo = PPO(accelerator, recipe, policy, tokenizer, problems)
    last = last_checkpoint(folder)
    if last is not None:
        ppo.restore(torch.load(last / STATE, map_location="cpu", weights_only=True))
    if accelerator.is_main_process:
        forget_steps_after(folder, ppo.step)
    return ppo, tokenizer


def _due(last: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` steps lies between: rounds may take several steps."""
    return every > 0 and now // every > last // every


def save_checkpoint(folder: Path, ppo: PPO, tokenizer: Any) -> None:
    """A model that can be evaluated, with all that the run can go on from.

    It bears its name only once it is whole, so that a kill leaves no half one.
    """
    if ppo.accelerator.is_main_process:
        place = folder / CHECKPOINTS / f"checkpoint-{ppo.step}"
        draft = place.with_name(f".{place.name}")
        shutil.rmtree(draft, ignore_errors=True)
        ppo.actor.policy.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        torch.save(ppo.state(), draft / STATE)
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        mark_whole(folder, ppo.step, process=0, processes=1)
        _drop_old(folder, ppo.recipe)
    ppo.accelerator.wait_for_everyone()


def _drop_old(folder: Path, recipe: Recipe) -> None:
    saved = sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=_step)
    for old in saved[: -recipe.keep_checkpoints] if recipe.keep_checkpoints else []:
        shutil.rmtree(old)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
