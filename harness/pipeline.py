"""From a recipe to a verdict: base evaluation → training → evaluation of its checkpoints → verdict.

Every stage is a run of its own that is found again by what it asks, so an interrupted pipeline goes
on at the stage, and in it at the sample or training step, where it stopped: nothing is kept here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import (
    compare,
    evaluate,
    models,
    room,
    runs,
    store,
    train,
    training_plan,
)
from harness.compare import Comparison
from harness.errors import UsageError
from harness.forgetting import MARGIN, Forgetting, forgetting
from harness.forgetting import as_json as lost_json
from harness.registry import tasks as find_tasks
from harness.session import Listener, Silent
from harness.task import Task
from harness.trainer import CHECKPOINTS, START, STEPS
from harness.training_plan import Prepared
from harness.types import JSON, ModelSpec, Run
from harness.verdict import three_sentences

VERDICT = "verdict.json"
REPORT = "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """settings: recipe fields by dotted path. register: name of the tuned model, else the recipe's.
    outside: tasks outside the training domain, beside those that the recipe names. checkpoints:
    whether those on the way are evaluated too. evaluation: how to ask, for base and tuned alike."""

    settings: Mapping[str, str] = field(default_factory=dict)
    register: str | None = None
    outside: tuple[str, ...] = ()
    margin: float = MARGIN
    checkpoints: bool = True
    evaluation: evaluate.Options = evaluate.Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One checkpoint with its evaluations. step None: the final one."""

    model: str
    step: int | None
    runs: tuple[Run, ...]
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. trained: None where the base could not be evaluated.

    domain: ids of the tasks that the training is for. points: the checkpoints in order of their
    steps, the final one last. comparison: the final one with the base. best: the point with the
    highest mean score on these tasks, where that is not the last; best_comparison: that one with
    the base.
    """

    base: tuple[Run, ...]
    trained: Run | None
    model: str
    domain: tuple[str, ...]
    points: tuple[Point, ...]
    comparison: tuple[Comparison, ...]
    outside: tuple[Forgetting, ...]
    sentences: tuple[str, ...]
    best: Point | None
    best_comparison: tuple[Comparison, ...]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stages:
    """A pipeline that was found sound. domain: the tasks that the training is for."""

    model: str
    base: ModelSpec
    domain: tuple[Task, ...]
    outside: tuple[Task, ...]

    @property
    def tasks(self) -> list[Task]:
        return [*self.domain, *self.outside]


def train_then_eval(name: str, options: Options, listener: Listener | None = None) -> Outcome:
    """Run every stage that is not done yet, and say whether the fine-tune helped.

    A stage that fails ends it: look at `Outcome.failed`. Raises BenchError for what can be known
    before the first stage.
    """
    told = listener or Silent()
    home = runs.home_folder(options.evaluation.home)
    training = training_plan.Options(
        settings=options.settings,
        register=options.register or Path(name).stem,
        data_root=options.evaluation.data_root,
        home=home,
    )
    with training_plan.prepared(name, training, told) as ready:
        stages = _checked(name, ready, training, options, told)
        told.note(f"1/4 evaluating {stages.base.name} on {_listed(stages.tasks)}")
        base = evaluate.evaluate([stages.base], stages.tasks, options.evaluation, listener=told)
        if any(run.status != "done" for run in base):
            return _outcome(stages, base)
        told.note(f"2/4 training {stages.model}")
        trained = train.train_prepared(ready, training, told)
    if trained.status != "done":
        return _outcome(stages, base, trained)
    told.note(f"3/4 evaluating {stages.model}")
    points = list(_points(home, stages, trained, options, told))
    done = _outcome(stages, base, trained, points)
    if done.failed:
        return done
    told.note(f"4/4 comparing {stages.model} with {stages.base.name}")
    _write_curve(home, trained, points)
    judged = _judged(home, done, options.margin, told)
    _write_verdict(home, trained, judged)
    store.sync(home, told.note)
    return judged


def _checked(
    name: str, ready: Prepared, training: training_plan.Options, options: Options, told: Listener
) -> _Stages:
    """What can be wrong with the evaluations, before the first stage."""
    home, spec, shape = runs.home_folder(training.home), ready.spec, ready.asked.shape
    _require_registered(spec, home)
    domain = _found(shape.tasks)
    known = {one.id for one in domain}
    named = _found((*shape.outside, *options.outside))
    outside = [one for one in named if one.id not in known]
    if not domain:
        raise UsageError(
            f"the recipe `{name}` names no task that the model will be judged on",
            "add `tasks: [arithmetic]` to it, or `--set 'tasks=[arithmetic]'`",
        )
    with evaluate.planned([spec], [*domain, *outside], options.evaluation):
        # Planning alone finds missing data, and options that a task cannot honour.
        pass
    room.require(home, ready.recipe, spec, told)
    return _Stages(
        model=str(training.register), base=spec, domain=tuple(domain), outside=tuple(outside)
    )


def _listed(tasks: Sequence[Task]) -> str:
    return ", ".join(one.id for one in tasks)


def _found(names: Sequence[str]) -> list[Task]:
    return list(find_tasks(",".join(names))) if names else []


def _require_registered(spec: ModelSpec, home: Path) -> None:
    if spec.name.partition("/")[0] not in models.entries(home):
        raise UsageError(
            f"`{spec.name}` is not in the model registry, so the tuned model would have no parent",
            f"`bench models add NAME --path {spec.path}`, then `model: NAME` in the recipe",
        )


def _points(
    home: Path, stages: _Stages, trained: Run, options: Options, listener: Listener
) -> Iterator[Point]:
    """Each kept checkpoint on the recipe's tasks, then the final one on all. All of them are asked
    together: an engine that can serves them with one start."""
    folder = runs.folder_of(home, trained.run_id)
    last = train.last_step(folder)
    kept = _kept(folder) if options.checkpoints else []
    steps = [(step, path) for step, path in kept if step < last]
    specs = [_checkpoint_spec(stages, trained, step, path) for step, path in steps]
    final = models.model(stages.model, home)
    asked = options.evaluation
    found = evaluate.evaluate([*specs, final], stages.domain, asked, listener=listener)
    size = len(stages.domain)
    for index, (step, _) in enumerate(steps):
        own = found[index * size : (index + 1) * size]
        yield _point(home, specs[index].name, step, own, stages)
    last_runs = found[-size:]
    if stages.outside:
        last_runs += evaluate.evaluate([final], stages.outside, asked, listener=listener)
    yield _point(home, final.name, None, last_runs, stages)


def _kept(folder: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints on the way, by step."""
    found = [
        (int(path.name.rpartition("-")[2]), path)
        for path in (folder / CHECKPOINTS).glob("checkpoint-*")
        if (path / "config.json").is_file() or (path / "adapter_config.json").is_file()
    ]
    return sorted(found)


def _checkpoint_spec(stages: _Stages, trained: Run, step: int, path: Path) -> ModelSpec:
    """A checkpoint on the way as a model; an adapter stays on its base, or on what training made
    of a base that is an adapter itself."""
    own = replace(
        stages.base,
        name=f"{stages.model}@{step}",
        parent=stages.base.name,
        run=trained.run_id,
        fingerprint="",
    )
    if (path / "adapter_config.json").is_file():
        whole = path.parent.parent / START
        if stages.base.adapter is not None:
            own = replace(own, path=str(whole), revision=None)
        return replace(own, adapter=str(path))
    return replace(own, path=str(path), revision=None, adapter=None)


def _point(
    home: Path, model: str, step: int | None, found: Sequence[Run], stages: _Stages
) -> Point:
    domain = {one.id for one in stages.domain}
    scores = [_score(home, run) for run in found if run.status == "done" and _task(run) in domain]
    mean = sum(scores) / len(scores) if scores else 0.0
    return Point(model=model, step=step, runs=tuple(found), score=mean)


def _task(run: Run) -> str:
    return f"{run.task}:{run.variant}" if run.variant else run.task


def _score(home: Path, run: Run) -> float:
    """The primary measure over all questions."""
    path = runs.folder_of(home, run.run_id) / runs.MEASURES
    measures = json.loads(path.read_text(encoding="utf-8"))
    return next(
        float(one["value"])
        for one in measures
        if one["metric"] == run.primary_metric and not one["group"]
    )


def _outcome(
    stages: _Stages,
    base: Sequence[Run],
    trained: Run | None = None,
    points: Sequence[Point] = (),
) -> Outcome:
    return Outcome(
        base=tuple(base),
        trained=trained,
        model=stages.model,
        domain=tuple(one.id for one in stages.domain),
        points=tuple(points),
        comparison=(),
        outside=(),
        sentences=(),
        best=None,
        best_comparison=(),
    )


def _judged(home: Path, done: Outcome, margin: float, listener: Listener) -> Outcome:
    final = done.points[-1]
    found = _compared(home, done.base, final, listener)
    far = [one for one in found if one.name not in done.domain]
    lost = forgetting(home, far, margin, listener.note)
    best = max(done.points, key=lambda point: point.score)
    other = best if best.score > final.score else None
    return replace(
        done,
        comparison=tuple(found),
        outside=tuple(lost),
        sentences=three_sentences(found, lost),
        best=other,
        best_comparison=tuple(_compared(home, done.base, other, listener)) if other else (),
    )


def _compared(
    home: Path, base: Sequence[Run], point: Point, listener: Listener
) -> list[Comparison]:
    """One family: p values are adjusted over all tasks of the point."""
    of_task = {_task(run): run.run_id for run in base}
    pairs = [(of_task[_task(run)], run.run_id) for run in point.runs]
    return compare.of_pairs(home, pairs, listener.note)


def _write_curve(home: Path, trained: Run, points: Sequence[Point]) -> None:
    """The scores of the checkpoints as measures `eval/<task>` among the steps of the training."""
    path = runs.folder_of(home, trained.run_id) / STEPS
    last = train.last_step(path.parent)
    known = set(path.read_text(encoding="utf-8").splitlines())
    lines = [
        json.dumps({"step": step, "epoch": 0.0, "metric": f"eval/{_task(run)}", "value": value})
        for point in points
        for run in point.runs
        for step, value in [(last if point.step is None else point.step, _score(home, run))]
    ]
    new = [line for line in lines if line not in known]
    if new:
        with runs.writing(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in new))
        # The history takes in a run again when its manifest is newer.
        runs.write_manifest(home, trained)


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
        "forgetting": [lost_json(one) for one in done.outside],
        "base": [run.run_id for run in done.base],
        "checkpoints": [_point_json(point) for point in done.points],
        "best": None if done.best is None else done.best.model,
        "best_comparison": [compare.as_json(one) for one in done.best_comparison],
    }


def _point_json(point: Point) -> JSON:
    asked = [{"task": _task(run), "run_id": run.run_id, "status": run.status} for run in point.runs]
    return {"model": point.model, "step": point.step, "score": point.score, "runs": asked}
