"""One trial: a training run of its own, looked at on the way, and what became of it.

The training stands still at each point until it is told whether to go on (or, with a second device,
learns on meanwhile). Of its weights only those of its best point stay.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness import models, registry, runs
from harness import train as training
from harness.checkpoints import trained_from
from harness.errors import BenchError, WorkerError
from harness.outcome import not_trained
from harness.search import LOSS
from harness.trainer import ANSWERS, CHECKPOINT, REACHED, STEPS
from harness.tuning.opening import Bench, begin, looks, prepared
from harness.tuning.patience import Progress
from harness.tuning.scoring import Worth
from harness.tuning.space import Point
from harness.types import JSON, ModelSpec, Recipe, Run

POINT_WEIGHTS = "points"

State = Literal["complete", "pruned", "failed"]


Prunes = Callable[[int, float], bool]
"""Hears of each evaluation (its point, its value) and says whether the trial is to end by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a trial. value: of its best point. told: further columns of table `trials`."""

    state: State
    value: float | None
    told: Mapping[str, Any]


def run_trial(bench: Bench, number: int, point: Point, prunes: Prunes) -> Ended:
    """Train with these values to the end, or to where it is no longer worth it."""
    begun = time.time()
    try:
        ready, learnt = prepared(bench, point)
    except BenchError as error:
        return _failed(error, {"seconds": time.time() - begun})
    run, lock = begin(bench, number, ready, learnt)
    try:
        trial = _Trial(bench, run, ready.recipe, number, prunes, begun)
        return trial.work()
    finally:
        os.close(lock)


def _failed(error: BenchError, told: Mapping[str, Any]) -> Ended:
    cause = error.cause if isinstance(error, WorkerError) else "usage"
    return Ended(state="failed", value=None, told={**told, "cause": cause, "error": error.message})


class _Trial:
    """A trial that is running."""

    def __init__(
        self, bench: Bench, run: Run, recipe: Recipe, number: int, prunes: Prunes, begun: float
    ) -> None:
        self.bench, self.run, self.recipe, self.number = bench, run, recipe, number
        self.prunes, self.begun = prunes, begun
        self.folder = runs.folder_of(bench.home, run.run_id)
        search = bench.plan.search
        self.progress = Progress(
            lower_is_better=search.lower_is_better,
            patience=search.patience,
            min_delta=search.min_delta,
        )
        self.heard = 0
        self.pruned = self.stopped = False
        self.told: dict[str, Any] = {"child_run_id": run.run_id}
        self.worth: Worth | None = None

    def work(self) -> Ended:
        error: BenchError | None = None
        try:
            self.bench.host.train(self.recipe, self.folder, self.look)
            if not looks(self.bench.plan):
                self._judge_end()
            self._require_a_number()
        except BenchError as raised:
            error = raised
        self._put_away(error)
        return self._ended(error)

    def look(self) -> None:
        """Take in what the training has reached since."""
        path = self.folder / REACHED
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for line in lines[self.heard :]:
            if not line.endswith("\n"):
                return
            self.heard += 1
            told = json.loads(line)
            if "began" in told:
                self.told["training_start_s"] = told["began"] - self.begun
            elif not self.pruned and not self.stopped:
                self._reach(told)

    def _reach(self, told: JSON) -> None:
        point, step = int(told["point"]), int(told["step"])
        place = Path(told["checkpoint"]) if told["checkpoint"] else None
        value = told["loss"] if self._by_loss() else self._score(place, step)
        self._record(step, value, place)
        self.pruned = self.prunes(point, value)
        self.stopped = not self.pruned and self.progress.enough
        self._answer(point, stop=self.pruned or self.stopped)

    def _by_loss(self) -> bool:
        return self.bench.plan.search.objective == LOSS

    def _score(self, place: Path | None, step: int) -> float:
        assert place is not None, "points were to be saved"
        assert self.bench.scoring is not None, "trials are judged by a task"
        name = f"{self.bench.plan.study}@{self.number}.{step}"
        base = self._base()
        spec = trained_from(base, place, name=name, run_id=self.run.run_id)
        self.worth = self.bench.scoring.worth(spec)
        self.told.setdefault("engine_start_s", self.worth.start_s)
        return self.worth.value

    def _base(self) -> ModelSpec:
        plan = self.bench.plan
        if self.recipe.model == plan.base.name:
            return plan.base
        return models.resolve(models.model(self.recipe.model, self.bench.home))

    def _record(self, step: int, value: float, place: Path | None) -> None:
        before = self.progress.best_step
        better = self.progress.add(step, value)
        self._write_curve(step, value)
        if better and self.worth is not None:
            kinds = ("correct", "wrong", "format_failure")
            self.told |= {name: getattr(self.worth, name) for name in kinds}
        if better and before:
            shutil.rmtree(self.folder / POINT_WEIGHTS / str(before), ignore_errors=True)
        elif not better and place is not None:
            shutil.rmtree(place, ignore_errors=True)

    def _write_curve(self, step: int, value: float) -> None:
        if not math.isfinite(value):
            return  # JSON has no word for it
        objective = self.bench.plan.search.objective
        metric = "eval_loss" if objective == LOSS else f"eval/{objective}"
        line = json.dumps({"step": step, "epoch": 0.0, "metric": metric, "value": value})
        with runs.writing(self.folder), (self.folder / STEPS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _answer(self, point: int, *, stop: bool) -> None:
        with (
            runs.writing(self.folder),
            (self.folder / ANSWERS).open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps({"point": point, "stop": stop}) + "\n")

    def _judge_end(self) -> None:
        """The one evaluation of a training that could not be looked at."""
        place = self.folder / CHECKPOINT
        if not place.is_dir():
            raise WorkerError("the trainer ended and left no `checkpoint/`", cause="no_checkpoint")
        step = training.last_step(self.folder)
        self._record(step, self._score(place, step), None)

    def _require_a_number(self) -> None:
        if self.progress.best is None:
            raise WorkerError("no evaluation of the trial gave a number", cause="nan_loss")

    def _put_away(self, error: BenchError | None) -> None:
        """Keep the best point of a trial that ended by itself, and write down how it ended."""
        best = self.folder / POINT_WEIGHTS / str(self.progress.best_step)
        if error is None and not self.pruned and best.is_dir():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder / CHECKPOINT)
            best.rename(self.folder / CHECKPOINT)
        shutil.rmtree(self.folder / POINT_WEIGHTS, ignore_errors=True)
        flags: tuple[str, ...] = ("pruned",) if self.pruned else ()
        flags += ("stopped_early",) if self.stopped else ()
        if error is None and not self.pruned:
            flags += not_trained(self.folder, registry.trainer(self.recipe.method))
        cause = None
        if error is not None:
            cause = error.cause if isinstance(error, WorkerError) else "storage"
        runs.write_manifest(
            self.bench.home,
            replace(
                self.run,
                status="done" if error is None else "failed",
                cause=cause,
                error=error.message if error is not None else None,
                flags=(*self.run.flags, *flags),
                finished_at=runs.now(),
                seconds=round(time.time() - self.begun, 3),
            ),
        )

    def _ended(self, error: BenchError | None) -> Ended:
        told = {
            **self.told,
            "seconds": round(time.time() - self.begun, 3),
            "last_step": max(self.progress.last_step, training.last_step(self.folder)),
            "best_step": self.progress.best_step or None,
            "best_value": self.progress.best,
        }
        if error is not None:
            return _failed(error, told)
        state: State = "pruned" if self.pruned else "complete"
        return Ended(state=state, value=self.progress.best, told=told)
