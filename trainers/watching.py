"""What a training tells while it runs: measures of its steps, checkpoints, and its end.

The measures are named alike whatever trainer wrote them. The learning rate is read before the step,
so it is the one that the step was taken with: who moves the schedule, and when within the step,
differs between DeepSpeed and the others.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from harness.trainer import STEPS, write_step
from trainers.checkpoints import mark_whole
from trainers.points import Points, points_of
from trainers.snapshots import Snapshots

NAMES = {"mean_token_accuracy": "token_accuracy"}
# Sums over the whole run, which transformers logs at the end.
_TOTALS = ("train_", "total_flos", "epoch", "num_tokens", "eval_")

MOST_SKIPPED = 20
"""Steps in a row whose gradients overflowed after which nothing more will be learnt."""


class NotFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite: every later step would train on it."""


class LossScaleUnderflowError(ArithmeticError):
    """fp16: no scale is left at which gradients neither overflow nor vanish."""


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Writes steps.jsonl and marks whole checkpoints; stops a training that is lost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.snapshots = Snapshots(folder)
        self.learning_rate = 0.0
        self.tokens = 0.0
        self.skipped = self.skipped_in_a_row = 0
        self.began = time.monotonic()
        self.points: Points | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        # Killed between its last checkpoint and the evaluation that it was for.
        self._offer(state, args.process_index)
        self.points = points_of(self.folder, main=state.is_world_process_zero)
        if self.points is not None:
            self.points.begin(state.max_steps, parts["processing_class"])

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step in self.snapshots.steps:
            control.should_save = True
        if self.points is not None and self.points.at(state.global_step, parts["model"]):
            control.should_training_stop = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self.learning_rate = float(parts["lr_scheduler"].get_last_lr()[0])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if not getattr(parts["optimizer"], "step_was_skipped", False):
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise LossScaleUnderflowError(
                f"the gradients of {MOST_SKIPPED} steps in a row overflowed in fp16 "
                f"(step {state.global_step})"
            )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any], **parts: Any
    ) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise NotFiniteLossError(f"the loss is {logs['loss']} at step {state.global_step}")
        if state.is_world_process_zero:
            measures = {**measures_of(logs), **self._of_machine(logs)}
            write_step(self.folder, state.global_step, measures, float(state.epoch or 0.0))

    def _of_machine(self, logs: dict[str, Any]) -> dict[str, float]:
        now = time.monotonic()
        seconds, self.began = now - self.began, now
        found = {
            "learning_rate": self.learning_rate,
            "memory_bytes": float(peak_memory_bytes()),
            "skipped_steps": float(self.skipped),
        }
        if "num_tokens" in logs:
            found["tokens_per_second"] = (logs["num_tokens"] - self.tokens) / max(seconds, 1e-9)
            self.tokens = logs["num_tokens"]
        return found

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        mark_whole(self.folder, state.global_step, args.process_index, args.world_size)
        self._offer(state, args.process_index)

    def _offer(self, state: Any, process: int) -> None:
        if state.global_step in self.snapshots.steps:
            # Waiting is no training: it must not slow down the tokens per second.
            self.began += self.snapshots.offer(state.global_step, first=process == 0)


def measures_of(logs: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a log, under our names, without totals of the run."""
    return {
        NAMES.get(name, name): float(value)
        for name, value in logs.items()
        if isinstance(value, int | float) and math.isfinite(value) and not name.startswith(_TOTALS)
    }


def peak_memory_bytes() -> int:
    """Most memory that was allocated: on the GPU where one is used, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_steps_after(folder: Path, step: int) -> None:
    """Leave out what a killed training measured after the checkpoint from which it goes on."""
    path = folder / STEPS
    kept = []
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            # The last line may be torn.
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line)
        draft = path.with_name(f".{path.name}")
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(path)
