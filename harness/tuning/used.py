"""Whether the trainer would use what a search varies: what it does not, cannot be tuned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from harness.tuning.space import Dimension, Point
from harness.types import Recipe

# Fields that say where, how fast or how loudly a training runs.
_ABOUT_THE_RUN = {
    *("description", "source", "tasks", "outside", "search", "allow_fp16", "report_to"),
    *("main_process_ip", "main_process_port", "machine_rank", "launcher", "num_processes"),
    *("num_machines", "device", "log_steps", "save_steps", "keep_checkpoints"),
    *("gradient_checkpointing", "pad_token", "trust_remote_code", "data.overlap", "data.empty"),
    *("params.rollout_micro_batch_size", "params.vllm_memory_share", "params.vllm_sleep"),
    *("params.rollouts", "params.working_folder", "params.step_pattern"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One corner of the space. point: its values. steps: optimiser steps that it takes. longest:
    tokens of the longest example. Both are 0 while they are not known."""

    point: Point
    recipe: Recipe
    steps: int = 0
    longest: int = 0


def check_field(path: str) -> None:
    """Raises UsageError for a field that changes no training of any method."""
    if any(path == name or path.startswith(f"{name}.") for name in _ABOUT_THE_RUN):
        raise _unused(path, "it says how a training is run, not what it learns", "take it out")


def check(dimension: Dimension, tried: Sequence[Tried]) -> None:
    """Raises UsageError where no training of the search would be another one for this field."""
    path = dimension.path
    why = [_unused_in(path, one) for one in tried]
    if all(why):
        raise _unused(path, *why[0])
    known = all(one.steps for one in tried)
    if path in ("epochs", "max_steps") and known and not _changes_steps(path, tried):
        other = "max_steps" if path == "epochs" else "epochs"
        raise _unused(
            path,
            f"`{other}` ends every training first",
            f"take `{other}` out of the recipe, or raise it",
        )


def _changes_steps(path: str, tried: Sequence[Tried]) -> bool:
    """Whether corners that differ in this field alone ever take other numbers of steps."""
    alike: dict[str, set[int]] = {}
    for one in tried:
        rest = json.dumps({k: v for k, v in one.point.items() if k != path}, sort_keys=True)
        alike.setdefault(rest, set()).add(one.steps)
    return any(len(steps) > 1 for steps in alike.values())


def _unused(path: str, why: str, hint: str) -> UsageError:
    return UsageError(f"the trainer would not use `search.space.{path}`: {why}", hint)


def _unused_in(path: str, one: Tried) -> tuple[str, str] | tuple[()]:
    """Why the field means nothing in that recipe, and what to do; empty where it means something"""
    recipe, params = one.recipe, one.recipe.params
    if recipe.method == "command":
        return _unknown_to_program(path, params, recipe)
    if path == "micro_batch_size" and params.get("reduction") != "token_micro":
        return (
            "how a batch is cut into forward passes changes no gradient",
            "vary `global_batch_size`",
        )
    if path == "optimizer.min_lr_ratio" and recipe.optimizer.schedule == "constant":
        return "the schedule is constant", "`optimizer: {schedule: cosine}`"
    if path in ("max_length", "overlong") and 0 < one.longest <= recipe.max_length:
        return (
            f"the longest example has {one.longest} tokens, and fits into `max_length` "
            f"{recipe.max_length}",
            "take it out, or begin with a smaller `max_length`",
        )
    if path == "params.kl_horizon" and params.get("kl_target") is None:
        return "`params.kl_target` is null, so the penalty stays", "set `params.kl_target`"
    return ()


def _unknown_to_program(
    path: str, params: dict[str, Any], recipe: Recipe
) -> tuple[str, str] | tuple[()]:
    """A program is told its command, its environment, and the folder if the command names it."""
    command = " ".join(params["command"])
    inner = path.partition(".")[0]
    known = inner in ("params", "data", "model") or "{folder}" in command
    if known or (path == "seed" and "{seed}" in command):
        return ()
    return (
        "the command is not told of it",
        "`params.environment.NAME`, or give the command `{folder}`, where recipe.json is",
    )
