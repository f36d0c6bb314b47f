"""What a pipeline will do, found sound before its first stage: models, tasks, gates, room."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import evaluate, gates, models, room, runs, training_plan
from harness.criteria import Criterion
from harness.errors import BenchError, UsageError, WorkerError
from harness.forgetting import MARGIN
from harness.infer import inspect_requests
from harness.plan import Plan
from harness.registry import tasks as find_tasks
from harness.session import Listener
from harness.task import Task
from harness.training_plan import Prepared
from harness.types import ModelSpec, Request, request_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """settings: recipe fields by dotted path. register: name of the tuned model, else the recipe's.
    outside: tasks outside the training domain, and gates: criteria that must hold, both beside
    those that the recipe names. checkpoints: whether those on the way are evaluated too.
    evaluation: how to ask, for base and tuned alike."""

    settings: Mapping[str, str] = field(default_factory=dict)
    register: str | None = None
    outside: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    margin: float = MARGIN
    checkpoints: bool = True
    evaluation: evaluate.Options = evaluate.Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """A pipeline that was found sound. domain: the tasks that the training is for. steps: of the
    whole training, 0 where unknown. evaluate: steps at which a checkpoint is evaluated meanwhile.
    """

    model: str
    base: ModelSpec
    domain: tuple[Task, ...]
    outside: tuple[Task, ...]
    gates: tuple[Criterion, ...]
    steps: int
    evaluate: tuple[int, ...]

    @property
    def tasks(self) -> list[Task]:
        return [*self.domain, *self.outside]


def checked(
    name: str, ready: Prepared, training: training_plan.Options, options: Options, told: Listener
) -> Stages:
    """What can be wrong with the evaluations. Raises BenchError for the first that is."""
    home, spec, shape = runs.home_folder(training.home), ready.spec, ready.asked.shape
    _require_registered(spec, home)
    domain = _found(shape.tasks)
    known = {one.id for one in domain}
    named = _found((*shape.outside, *options.outside))
    outside = list({one.id: one for one in named if one.id not in known}.values())
    if not domain:
        raise UsageError(
            f"the recipe `{name}` names no task that the model will be judged on",
            "add `tasks: [arithmetic]` to it, or `--set 'tasks=[arithmetic]'`",
        )
    stages = Stages(
        model=str(training.register),
        base=spec,
        domain=tuple(domain),
        outside=tuple(outside),
        gates=gates.checked((*shape.gates, *options.gates), gates.words(domain, outside)),
        steps=(steps := training_plan.steps_of(ready.recipe, int(ready.found.get("kept", 0)))),
        evaluate=_steps_on_the_way(ready, steps),
    )
    more = len(stages.evaluate)
    room.require(home, ready.recipe, spec, told, steps=steps, more=more)
    with evaluate.planned([spec], stages.tasks, options.evaluation) as (specs, plans):
        # Planning alone finds missing data, and options that a task cannot honour.
        _require_answerable(home, specs[0], plans, options.evaluation)
    return stages


def listed(tasks: Sequence[Task]) -> str:
    return ", ".join(one.id for one in tasks)


def _found(names: Sequence[str]) -> list[Task]:
    return list(find_tasks(",".join(names))) if names else []


def _require_registered(spec: ModelSpec, home: Path) -> None:
    if spec.name.partition("/")[0] not in models.entries(home):
        raise UsageError(
            f"`{spec.name}` is not in the model registry, so the tuned model would have no parent",
            f"`bench models add NAME --path {spec.path}`, then `model: NAME` in the recipe",
        )


def _steps_on_the_way(ready: Prepared, steps: int) -> tuple[int, ...]:
    """Where `evaluate_at` and `evaluate_steps` want a checkpoint evaluated, without the last step,
    whose checkpoint is the tuned model itself."""
    shape = ready.asked.shape
    if not shape.evaluate_at and not shape.evaluate_steps:
        return ()
    if ready.recipe.method == "command":
        raise UsageError(
            "`evaluate_at`: a program of its own cannot be asked for checkpoints",
            "let it leave some in `checkpoints/`: they are evaluated when it has ended",
        )
    if shape.evaluate_steps < 0 or any(step < 1 for step in shape.evaluate_at):
        raise UsageError("`evaluate_at` and `evaluate_steps` count steps", "use 1 or more")
    late = [step for step in shape.evaluate_at if steps and step >= steps]
    if late:
        raise UsageError(
            f"`evaluate_at: {late[0]}`: the training has {steps} steps, and the last one's "
            "checkpoint is evaluated anyway",
            f"use steps below {steps}",
        )
    every = range(shape.evaluate_steps, steps, shape.evaluate_steps) if shape.evaluate_steps else ()
    return tuple(sorted({*shape.evaluate_at, *every}))


def _require_answerable(
    home: Path, spec: ModelSpec, plans: Sequence[Plan], options: evaluate.Options
) -> None:
    """Raises UsageError where prompts do not fit the model; its tokenizer tells, not its weights.
    What the model has answered already needs no such question."""
    done = {
        (run.model, run.model_fingerprint, run.protocol)
        for run in runs.read_all(home)
        if run.kind == "eval" and run.status == "done"
    }
    new = [one for one in plans if (spec.name, spec.fingerprint, one.protocol) not in done]
    if not new:
        return
    engine, settings = evaluate.engine_settings(spec, options)
    try:
        inspect_requests(spec, (one for plan in new for one in _requests(plan)), engine, settings)
    except WorkerError as error:
        names = ", ".join(plan.task.id for plan in new)
        raise _unanswerable(error, spec, names) from None


def _unanswerable(error: WorkerError, spec: ModelSpec, names: str) -> BenchError:
    if error.cause in ("import_error", "killed"):
        return error
    return UsageError(f"`{spec.name}` cannot be asked `{names}`: {error.message}", error.hint)


def _requests(plan: Plan) -> Iterator[Request]:
    with plan.path.open(encoding="ascii") as file:
        for line in file:
            one = request_from_json(json.loads(line))
            yield replace(one, id=f"{plan.task.id} {one.id}")
