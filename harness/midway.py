"""Evaluations while a training runs: at given steps its checkpoint is asked by a second worker.

The trainer puts the weights of such a step into snapshots/. Where a GPU is free they are evaluated
there while it goes on; else it waits between two steps until they are. evaluated.json says which
steps are done, so that a repeated command asks nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness import evaluate, runs
from harness.checkpoints import trained_from
from harness.errors import StoreError
from harness.session import Listener
from harness.stages import Stages, listed
from harness.trainer import EVALUATE, SNAPSHOTS, START, STEPS
from harness.training_process import VISIBLE, own_gpus, visible_gpus
from harness.types import JSON, ModelSpec, Recipe, Run

EVALUATED = "evaluated.json"


class Midway:
    """Evaluates what one training offers."""

    def __init__(
        self, home: Path, stages: Stages, asked: evaluate.Options, listener: Listener
    ) -> None:
        self.home, self.stages, self.asked, self.listener = home, stages, asked, listener
        self.spare: str | None = None

    def begin(self, run: Run, recipe: Recipe) -> None:
        """Before the trainer starts: what a killed command left, and which steps are wanted."""
        self.spare = spare_gpu(recipe)
        self.look(run)
        done = _recorded(self._folder(run))
        steps = [step for step in self.stages.evaluate if str(step) not in done]
        order = {"steps": steps, "wait": self.spare is None}
        runs.write_atomically(self._folder(run) / EVALUATE, json.dumps(order) + "\n")

    def look(self, run: Run) -> None:
        """Evaluate the snapshots that are there, oldest first."""
        for step, path in _offered(self._folder(run)):
            self._evaluate(run, step, path)
            with runs.writing(path):
                path.with_name(f"{path.name}.done").touch()
                shutil.rmtree(path)

    def _evaluate(self, run: Run, step: int, path: Path) -> None:
        folder = self._folder(run)
        known = _recorded(folder)
        if str(step) in known:
            return
        self.listener.note(f"evaluating step {step} on {listed(self.stages.domain)}")
        spec = checkpoint(self.stages, run, step, path)
        with _on_gpu(self.spare):
            found = evaluate.evaluate(
                [spec], self.stages.domain, self.asked, listener=self.listener
            )
        if any(one.status != "done" for one in found):
            self.listener.note(f"step {step} could not be evaluated; the training goes on")
            return
        known[str(step)] = [one.run_id for one in found]
        runs.write_atomically(folder / EVALUATED, json.dumps(known, indent=2) + "\n")
        add_to_steps(
            self.home,
            run,
            [(step, f"eval/{one.task_id}", runs.primary(self.home, one)) for one in found],
        )

    def _folder(self, run: Run) -> Path:
        return runs.folder_of(self.home, run.run_id)


def evaluated(home: Path, trained: Run) -> dict[int, tuple[Run, ...]]:
    """Finished evaluations of a training's checkpoints, by step."""
    found: dict[int, tuple[Run, ...]] = {}
    for step, ids in _recorded(runs.folder_of(home, trained.run_id)).items():
        # Somebody may have deleted one since.
        with contextlib.suppress(FileNotFoundError, StoreError):
            found[int(step)] = tuple(runs.read_manifest(runs.folder_of(home, i)) for i in ids)
    return found


def checkpoint(stages: Stages, trained: Run, step: int, path: Path) -> ModelSpec:
    """A checkpoint on the way as a model; an adapter stays on its base, or on what the training
    made of a base that is an adapter itself."""
    base = stages.base
    if base.adapter is not None:
        base = replace(base, path=str(path.parent.parent / START), revision=None)
    return trained_from(base, path, name=f"{stages.model}@{step}", run_id=trained.run_id)


def spare_gpu(recipe: Recipe) -> str | None:
    """A GPU that the training leaves free, as CUDA names it; None where there is none."""
    free = visible_gpus()[len(own_gpus(recipe)) :]
    return free[0] if free else None


def add_to_steps(home: Path, run: Run, measured: Sequence[tuple[int, str, float]]) -> bool:
    """Append (step, metric, value) to the steps of a training; whether any was new."""
    path = runs.folder_of(home, run.run_id) / STEPS
    lines = [
        json.dumps({"step": step, "epoch": 0.0, "metric": metric, "value": value})
        for step, metric, value in measured
    ]
    with runs.writing(path):
        path.touch()
        known = set(path.read_text(encoding="utf-8").splitlines())
        new = [line for line in dict.fromkeys(lines) if line not in known]
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in new))
    return bool(new)


def _recorded(folder: Path) -> JSON:
    try:
        found: JSON = json.loads((folder / EVALUATED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _offered(folder: Path) -> list[tuple[int, Path]]:
    found = [
        (int(path.name.rpartition("-")[2]), path)
        for path in (folder / SNAPSHOTS).glob("checkpoint-*")
        if path.is_dir()
    ]
    return sorted(found)


@contextlib.contextmanager
def _on_gpu(name: str | None) -> Iterator[None]:
    """Workers that are started inside see that GPU alone: the others are busy with the training."""
    before = os.environ.get(VISIBLE)
    if name is not None:
        os.environ[VISIBLE] = name
    try:
        yield
    finally:
        if before is not None:
            os.environ[VISIBLE] = before
        elif name is not None:
            del os.environ[VISIBLE]
