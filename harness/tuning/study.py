"""The study: Optuna's record of all trials, in a folder beside the history, shared by any number of
processes on this machine.

leaderboards/studies/<name>/journal.log    Optuna's journal
leaderboards/studies/<name>/.lock          held for the moment in which a trial is handed out
leaderboards/studies/<name>/workers/<id>/  held by each worker: so it is known which ones are gone

Sampling depends on the seed and on how many trials began before, so that neither the number of
workers nor an interruption changes what is drawn, or gives two trials the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from harness import runs
from harness.errors import StoreError, UsageError
from harness.search import Search
from harness.trainer import CHECKPOINT
from harness.tuning.journal import storage
from harness.tuning.plan import Plan, differences
from harness.tuning.space import Dimension, Point
from harness.tuning.studies import JOURNAL, folder_of
from harness.types import JSON

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """Raises UsageError for a study of another search."""

    def __init__(self, home: Path, plan: Plan) -> None:
        self.folder = folder_of(home, plan.study)
        self.search, self.space = plan.search, plan.space
        self._worker: tuple[str, int] | None = None
        with runs.writing(self.folder):
            (self.folder / "workers").mkdir(parents=True, exist_ok=True)
        with self.locked():
            if not self._workers():
                # Of a process that was killed while it wrote.
                runs.mend_tail(self.folder / JOURNAL)
            self._study = _opened(self.folder / JOURNAL, plan)
            self._claim(plan)

    def _claim(self, plan: Plan) -> None:
        known = self._study.user_attrs.get("asked")
        if known is None:
            self._study.set_user_attr("asked", plan.asked)
        elif known != plan.asked:
            names = ", ".join(f"`{name}`" for name in differences(known, plan.asked)[:4])
            raise UsageError(
                f"the study `{plan.study}` was made by another recipe: {names} differ(s)",
                "`--study NAME` begins one of its own",
            )

    @property
    def run_id(self) -> str | None:
        """The tuning run that the study belongs to."""
        found: str | None = self._study.user_attrs.get("run_id")
        return found

    @run_id.setter
    def run_id(self, run_id: str) -> None:
        self._study.set_user_attr("run_id", run_id)

    @property
    def optuna(self) -> optuna.Study:
        return self._study

    def trials(self) -> list[FrozenTrial]:
        """Those that began, in order, without those that were cut off with their worker."""
        cut = set(self._study.user_attrs.get("cut", ()))
        return [
            one
            for one in self._study.get_trials(deepcopy=False)
            if one.state != TrialState.WAITING and one.number not in cut
        ]

    def cut(self) -> list[FrozenTrial]:
        """Trials whose worker was gone before their end; their values were tried again."""
        numbers = set(self._study.user_attrs.get("cut", ()))
        return [one for one in self._study.get_trials(deepcopy=False) if one.number in numbers]

    def ended(self) -> int:
        return sum(one.state in _ENDED for one in self.trials())

    def is_running(self) -> bool:
        """Whether a worker that is alive has a trial that has not ended."""
        with self.locked():
            self._reap()
        return any(one.state == TrialState.RUNNING for one in self.trials())

    def best(self) -> FrozenTrial | None:
        """Of those that ran to their end, the one with the best value."""
        done = [one for one in self.trials() if one.state == TrialState.COMPLETE]
        sign = 1 if self.search.lower_is_better else -1
        return min(done, key=lambda one: (sign * float(one.value or 0.0), one.number), default=None)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """What is asked inside belongs to this process, and is cut off when it is gone."""
        name = f"{os.getpid()}-{secrets.token_hex(3)}"
        place = self.folder / "workers" / name
        place.mkdir()
        lock = runs.lock(place)
        assert lock is not None, "a new folder has no other holder"
        self._worker = name, lock
        try:
            yield
        finally:
            self._worker = None
            shutil.rmtree(place, ignore_errors=True)
            os.close(lock)

    def ask(self, wanted: int) -> Trial | None:
        """The next trial; None where so many have begun already."""
        assert self._worker is not None
        with self.locked():
            self._reap()
            begun = len(self.trials())
            if begun >= wanted:
                return None
            self._study.sampler = sampler(self.search, begun)
            trial = self._study.ask(distributions(self.space))
            trial.set_user_attr("worker", self._worker[0])
            return trial

    def point(self, params: Mapping[str, Any]) -> Point:
        """The values of a trial as the recipe has them."""
        return {one.path: one.value(params[one.path]) for one in self.space if one.path in params}

    def prunes(self, trial: Trial, point: int, value: float) -> bool:
        """Report an evaluation; whether the trial is to end by what others had reached there.

        Not after the last one: then it has run to its end, and counts as complete.
        """
        trial.report(value, step=point)
        return point < self.search.evaluations and trial.should_prune()

    def tell(
        self, trial: Trial, state: TrialState, value: float | None, told: Mapping[str, Any]
    ) -> None:
        for name, item in told.items():
            trial.set_user_attr(name, item)
        self._study.tell(trial, value if state == TrialState.COMPLETE else None, state)

    def drop_checkpoints(self, home: Path) -> None:
        """Of all trials that ended only the best one's checkpoint stays."""
        with self.locked():
            best = self.best()
            for one in self.trials():
                run_id = one.user_attrs.get("child_run_id")
                if one.state in _ENDED and run_id and (best is None or one.number != best.number):
                    place = runs.folder_of(home, run_id) / CHECKPOINT
                    shutil.rmtree(place, ignore_errors=True)

    def _reap(self) -> None:
        """Trials of workers that are gone have failed; their values are tried again."""
        alive = self._workers()
        for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if one.user_attrs.get("worker") not in alive:
                cut = [*self._study.user_attrs.get("cut", ()), one.number]
                self._study.set_user_attr("cut", cut)
                self._study.tell(one.number, state=TrialState.FAIL)
                if len(one.params) == len(self.space):
                    self._study.enqueue_trial(dict(one.params))

    def _workers(self) -> set[str]:
        return {
            place.name for place in (self.folder / "workers").iterdir() if runs.is_locked(place)
        }

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes that work on the study."""
        descriptor = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _opened(journal: Path, plan: Plan) -> optuna.Study:
    try:
        return optuna.create_study(
            storage=storage(journal),
            study_name=plan.study,
            direction="minimize" if plan.search.lower_is_better else "maximize",
            pruner=pruner(plan.search),
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise StoreError(
            f"the study `{journal}` cannot be read: {error}",
            f"move {journal.parent} away, or `--study NAME`; the trials' runs are untouched",
        ) from error


def pruner(search: Search) -> optuna.pruners.BasePruner:
    """A resource is one evaluation, whatever number of steps lies between two."""
    if search.pruner == "none":
        return optuna.pruners.NopPruner()
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=search.min_resource,
            max_resource=search.evaluations,
            reduction_factor=search.reduction_factor,
        )
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=search.min_resource,
        reduction_factor=search.reduction_factor,
        min_early_stopping_rate=0,
    )


def sampler(search: Search, begun: int) -> optuna.samplers.BaseSampler:
    """For the trial after so many, those not counted that were cut off."""
    seed = search.seed + begun
    match search.sampler:
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
        case "nsgaii":
            return optuna.samplers.NSGAIISampler(seed=seed)
        case "qmc":
            # One sequence, of which the study itself knows how far it is.
            return optuna.samplers.QMCSampler(seed=search.seed, warn_asynchronous_seeding=False)


def distributions(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    return {one.path: _distribution(one) for one in space}


def _distribution(one: Dimension) -> BaseDistribution:
    if one.kind == "choice":
        return CategoricalDistribution(one.marks)
    if one.kind == "int":
        low, high = int(one.low), int(one.high)
        return IntDistribution(low, high, log=one.log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def row(one: FrozenTrial, point: Point) -> JSON:
    """A trial as table `trials` has it."""
    names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "running",
    }
    known = one.user_attrs
    told = (
        *("last_step", "child_run_id", "cause", "error", "best_step"),
        *("correct", "wrong", "format_failure", "seconds", "training_start_s", "engine_start_s"),
    )
    value = known.get("best_value", one.value)
    return {
        "trial": one.number,
        "state": names[one.state],
        "params": point,
        "value": value,
        **{name: known.get(name) for name in told},
    }
