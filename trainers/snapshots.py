"""Weights that are put aside at given steps, for an evaluation while the training runs."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from harness.trainer import CHECKPOINTS, EVALUATE, SNAPSHOTS
from trainers.checkpoints import is_whole

POLL_S = 0.1
# What a training goes on from; an evaluation needs none of it.
_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args", "ppo")


class Snapshots:
    """Which steps are wanted, by evaluate.json; none where there is no such file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            order = json.loads((folder / EVALUATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            order = {"steps": [], "wait": False}
        self.steps: list[int] = order["steps"]
        self.wait: bool = order["wait"]

    def due(self, before: int, now: int) -> bool:
        """Whether a wanted step was taken since `before`."""
        return any(before < step <= now for step in self.steps)

    def offer(self, step: int, *, first: bool = True) -> float:
        """Put the weights of a whole checkpoint aside, and wait for their evaluation where that is
        asked for; the seconds it took. first: whether this process is the one that does it."""
        began = time.monotonic()
        place = self.folder / SNAPSHOTS / f"checkpoint-{step}"
        done = place.with_name(f"{place.name}.done")
        if first and not done.exists() and not place.exists():
            self._put_aside(self.folder / CHECKPOINTS / place.name, place)
        while self.wait and not done.exists():
            time.sleep(POLL_S)
        return time.monotonic() - began

    def _put_aside(self, checkpoint: Path, place: Path) -> None:
        """Links where the file system has them: a checkpoint may be dropped meanwhile."""
        while not is_whole(checkpoint):  # other processes still write their part
            time.sleep(POLL_S)
        draft = place.with_name(f".{place.name}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for path in checkpoint.iterdir():
            if path.is_file() and not path.name.startswith((*_STATE, "whole-")):
                _link(path, draft / path.name)
        draft.rename(place)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
