"""From a recipe to a verdict: base evaluation → training → evaluation of its checkpoints → verdict.

Every stage is a run of its own that is found again by what it asks, so an interrupted pipeline goes
on at the stage, and in it at the sample or training step, where it stopped: nothing is kept here.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import compare, evaluate, gates, midway, runs, stages, store, train, training_plan
from harness import points as curve
from harness.compare import Comparison
from harness.errors import UsageError
from harness.forgetting import Forgetting, forgetting
from harness.forgetting import as_json as lost_json
from harness.gates import Gate, Index
from harness.points import Point
from harness.session import Listener, Silent
from harness.stages import Options, Stages
from harness.training_plan import Prepared
from harness.types import JSON, Run, to_json
from harness.verdict import three_sentences

__all__ = ["Options", "Outcome", "Point", "as_json", "train_then_eval"]

VERDICT = "verdict.json"
REPORT = "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. trained: None where the base could not be evaluated.

    domain: ids of the tasks that the training is for. points: the checkpoints in order of their
    steps, the final one last. comparison: the final one with the base, indices: the same for
    measures of whole models. best: the point with the highest mean score on these tasks, where that
    is not the last; best_weights: its folder, None where it was not kept; best_comparison: that one
    with the base. gates: criteria that were to hold.
    """

    base: tuple[Run, ...]
    trained: Run | None
    model: str
    domain: tuple[str, ...]
    points: tuple[Point, ...]
    comparison: tuple[Comparison, ...] = ()
    indices: tuple[Index, ...] = ()
    outside: tuple[Forgetting, ...] = ()
    sentences: tuple[str, ...] = ()
    best: Point | None = None
    best_weights: Path | None = None
    best_comparison: tuple[Comparison, ...] = ()
    gates: tuple[Gate, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every gate holds; without gates, whether no task is worse."""
        if self.gates:
            return all(gate.holds for gate in self.gates)
        return not any(one.verdict == "worse" for one in self.comparison)

    @property
    def failed(self) -> str:
        """Which stage did not end well, in words; '' where all did."""
        for what, found in (("base evaluation", self.base), ("evaluation", self._evaluated())):
            for run in found:
                if run.status != "done":
                    return f"the {what} `{run.run_id}` {run.status}: {run.error or run.cause}"
            if what == "base evaluation" and (text := self._training_failed()):
                return text
        return ""

    def _training_failed(self) -> str:
        run = self.trained
        if run is None or run.status == "done":
            return ""
        return f"the training `{run.run_id}` {run.status} ({run.cause}): {run.error}"

    def _evaluated(self) -> list[Run]:
        return [run for point in self.points for run in point.runs]


def train_then_eval(name: str, options: Options, listener: Listener | None = None) -> Outcome:
    """Run every stage that is not done yet, and say whether the fine-tune helped.

    A stage that fails ends it: look at `Outcome.failed`. Raises BenchError for what can be known
    before the first stage.
    """
    told = listener or Silent()
    home = runs.home_folder(options.evaluation.home)
    training = _training(name, options, home)
    with training_plan.prepared(name, training, told) as ready, _alone(home, ready, training):
        plan = stages.checked(name, ready, training, options, told)
        told.note(f"1/4 evaluating {plan.base.name} on {stages.listed(plan.tasks)}")
        base = evaluate.evaluate([plan.base], plan.tasks, options.evaluation, listener=told)
        if any(run.status != "done" for run in base):
            return _outcome(plan, base)
        told.note(f"2/4 training {plan.model}")
        beside = midway.Midway(home, plan, options.evaluation, told) if plan.evaluate else None
        trained = train.train_prepared(ready, training, told, beside)
        if trained.status != "done":
            return _outcome(plan, base, trained)
        told.note(f"3/4 evaluating {plan.model}")
        found = _points(home, plan, trained, options, told)
        done = _outcome(plan, base, trained, found)
        if done.failed:
            return done
        told.note(f"4/4 comparing {plan.model} with {plan.base.name}")
        judged = _judged(home, done, plan, options.margin, told)
        _write_verdict(home, trained, judged)
    store.sync(home, told.note)
    return judged


def preview(name: str, options: Options, listener: Listener | None = None) -> JSON:
    """What `--dry-run` shows: all checks made, nothing started."""
    told = listener or Silent()
    home = runs.home_folder(options.evaluation.home)
    training = _training(name, options, home)
    with training_plan.prepared(name, training, told) as ready:
        plan = stages.checked(name, ready, training, options, told)
        return {
            "recipe": ready.asked.name,
            "base": plan.base.name,
            "model": plan.model,
            "method": ready.recipe.method,
            "examples": len(ready.data.examples),
            "steps": plan.steps,
            "evaluate_at": list(plan.evaluate),
            "tasks": [one.id for one in plan.domain],
            "outside": [one.id for one in plan.outside],
            "gates": [one.text for one in plan.gates],
        }


def _training(name: str, options: Options, home: Path) -> training_plan.Options:
    return training_plan.Options(
        settings=options.settings,
        register=options.register or Path(name).stem,
        data_root=options.evaluation.data_root,
        home=home,
    )


@contextmanager
def _alone(home: Path, ready: Prepared, training: training_plan.Options) -> Iterator[None]:
    """One command at a time for one training: a second one would ask the base twice, and wait for
    the same weights. Raises UsageError where another has it."""
    place = runs.runs_folder(home) / f".pipeline-{ready.key[:16]}.lock"
    with runs.writing(place):
        held = os.open(place, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(held, 32, 0).decode().strip()
            raise UsageError(
                f"`{training.register}` is being trained and evaluated by process {owner} already",
                "wait for its end: the same command then shows what it found",
            ) from None
        os.truncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(held)


def _points(
    home: Path, plan: Stages, trained: Run, options: Options, listener: Listener
) -> list[Point]:
    asked, every = options.evaluation, options.checkpoints
    found = list(curve.points(home, plan, trained, asked, listener, checkpoints=every))
    if all(run.status == "done" for point in found for run in point.runs):
        curve.write_curve(home, trained, found)
    return found


def _outcome(
    plan: Stages,
    base: Sequence[Run],
    trained: Run | None = None,
    points: Sequence[Point] = (),
) -> Outcome:
    return Outcome(
        base=tuple(base),
        trained=trained,
        model=plan.model,
        domain=tuple(one.id for one in plan.domain),
        points=tuple(points),
    )


def _judged(home: Path, done: Outcome, plan: Stages, margin: float, listener: Listener) -> Outcome:
    trained, final = done.trained, done.points[-1]
    assert trained is not None
    found = _compared(home, done.base, final, listener)
    indices = _indices(home, done.base, final)
    far = [one for one in found if one.name not in done.domain]
    lost = forgetting(home, far, margin, listener.note)
    best = max(done.points, key=lambda point: point.score)
    other = best if best.score > final.score else None
    return replace(
        done,
        comparison=tuple(found),
        indices=indices,
        outside=tuple(lost),
        sentences=three_sentences(found, lost) if found else (),
        best=other,
        best_weights=curve.weights(home, trained, other) if other else None,
        best_comparison=tuple(_compared(home, done.base, other, listener)) if other else (),
        gates=gates.judged(plan.gates, gates.facts(found, lost, indices)),
    )


def _compared(
    home: Path, base: Sequence[Run], point: Point, listener: Listener
) -> list[Comparison]:
    """One family: p values are adjusted over all tasks of the point."""
    before = {run.task_id: run.run_id for run in base}
    pairs = [(before[run.task_id], run.run_id) for run in point.runs if not is_index(run)]
    return compare.of_pairs(home, pairs, listener.note)


def is_index(run: Run) -> bool:
    """Whether it measured the whole model, so that no question has a score to pair."""
    return "embedding" in run.protocol_parts


def _indices(home: Path, base: Sequence[Run], point: Point) -> tuple[Index, ...]:
    before = {run.task_id: run for run in base}
    return tuple(
        Index(
            name=run.task_id,
            metric=run.primary_metric,
            base=runs.primary(home, before[run.task_id]),
            tuned=runs.primary(home, run),
            base_run=before[run.task_id].run_id,
            tuned_run=run.run_id,
        )
        for run in point.runs
        if is_index(run)
    )


def _write_verdict(home: Path, trained: Run, done: Outcome) -> None:
    path = runs.folder_of(home, trained.run_id) / VERDICT
    runs.write_atomically(path, json.dumps(as_json(home, done), indent=2) + "\n")


def as_json(home: Path, done: Outcome) -> JSON:
    """The public form: `bench train-then-eval --json`."""
    result = None if done.trained is None else train.result_json(home, done.trained, done.model)
    return {
        "train": result,
        "failed": done.failed or None,
        "sentences": list(done.sentences),
        "comparison": [compare.as_json(one) for one in done.comparison],
        "indices": [{**to_json(one), "delta": one.delta} for one in done.indices],
        "forgetting": [lost_json(one) for one in done.outside],
        "base": [run.run_id for run in done.base],
        "checkpoints": [curve.as_json(point) for point in done.points],
        "best": None if done.best is None else done.best.model,
        "best_weights": None if done.best_weights is None else str(done.best_weights),
        "best_comparison": [compare.as_json(one) for one in done.best_comparison],
        "gates": [to_json(one) for one in done.gates],
        "passed": done.passed,
    }
