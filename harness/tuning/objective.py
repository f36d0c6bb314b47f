"""By what trials are judged: the loss of held-out examples, or a task's tuning half."""

from __future__ import annotations

from dataclasses import replace

from harness import evaluate, registry
from harness.errors import UsageError, did_you_mean
from harness.halves import Half
from harness.recipes import Asked
from harness.search import LOSS, Search
from harness.task import Task
from harness.types import ModelSpec, Recipe


def check(
    search: Search, asked: Asked, recipe: Recipe, options: evaluate.Options, spec: ModelSpec
) -> None:
    """Raises BenchError for what cannot be measured, or only at the end where it is needed before.

    The evaluations are planned once, which finds missing data.
    """
    _check_points(search, recipe)
    if search.objective == LOSS:
        _check_loss(asked)
        task = None
    else:
        task = task_of(search, asked)
        own = replace(options, half="tuning", limit=search.questions)
        with evaluate.planned([spec], [task], own):
            pass
    for tasks, half in reported(asked, task):
        with evaluate.planned([spec], tasks, replace(options, half=half)):
            pass


def task_of(search: Search, asked: Asked) -> Task:
    """The task of the objective. Raises UsageError for one that is not among the recipe's."""
    known = _tasks(asked)
    names = [one.id for one in known]
    wanted = [one for one in known if one.id == search.objective]
    if not wanted:
        hint = did_you_mean(
            search.objective,
            [LOSS, *names],
            f"`loss`, or one of its tasks: {', '.join(names) or 'it has none'}",
        )
        raise UsageError(
            f"`search.objective: {search.objective}` is no task of the recipe `{asked.name}`", hint
        )
    return wanted[0]


def named(search: Search) -> Task:
    """The task of an objective that was checked."""
    return registry.tasks(search.objective)[0]


def reported(asked: Asked, tuned_on: Task | None) -> list[tuple[list[Task], Half | None]]:
    """What the best model is judged on: of the task that it was chosen by the other half, of tasks
    by which nothing was chosen every question."""
    others = [one for one in _tasks(asked) if tuned_on is None or one.id != tuned_on.id]
    parts: list[tuple[list[Task], Half | None]] = []
    if tuned_on is not None:
        parts.append(([tuned_on], "report"))
    if others:
        parts.append((others, None))
    return parts


def _tasks(asked: Asked) -> list[Task]:
    names = asked.shape.tasks
    return list(registry.tasks(",".join(names))) if names else []


def _check_loss(asked: Asked) -> None:
    trainer = asked.trainer
    if trainer.data != "demonstrations" or trainer.name == "command":
        raise UsageError(
            f"`search.objective: loss` is the loss of held-out demonstrations, which method "
            f"`{trainer.name}` does not have",
            "`objective: TASK`, one of the recipe's tasks",
        )


def _check_points(search: Search, recipe: Recipe) -> None:
    """Whether a training of this recipe can be looked at before it ends."""
    if search.evaluations == 1 and search.objective != LOSS:
        return
    if recipe.method == "command":
        raise UsageError(
            "a program cannot be looked at before its end, and the search wants "
            f"{search.evaluations} evaluations of each trial",
            "`search: {evaluations: 1, pruner: none, objective: TASK}`",
        )
    if recipe.launcher in ("zero3", "fsdp"):
        raise UsageError(
            f"under `launcher: {recipe.launcher}` no process has the whole weights, which are "
            "needed to evaluate a training on the way",
            "`--set launcher=zero2`, or `search: {evaluations: 1, pruner: none, objective: TASK}`",
        )
