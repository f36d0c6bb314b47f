"""Looks tasks and trainers up by name: those of the packages, groups, those of plugins, of files.

A plugin is a distribution with an entry point in the group `tunebench.tasks` that loads to a tuple
of tasks. A name that ends in `.py` is the path of a file with such a tuple, called TASKS. Nothing
is imported before the first look-up.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.lm_eval_task import PREFIX, lm_eval_task
from harness.task import Task
from harness.trainer import Trainer
from harness.types import Run

PLUGINS = "tunebench.tasks"
FILE = ".py"


def task(name: str) -> Task:
    """The task called `name`, as in `gsm8k` or, for another variant, `gsm8k:cot`.

    A file must hold exactly one task. Names `lm_eval/…` are passed on to lm-eval, which alone knows
    what there is.
    Raises UsageError for an unknown task or variant.
    """
    if name.startswith(PREFIX):
        return lm_eval_task(name)
    if name.endswith(FILE):
        return _only_task(name)
    known = _built_in()
    if name not in known:
        known = _everything()
    if name not in known:
        raise _unknown(name, known)
    return known[name]


def task_of(run: Run) -> Task:
    """The task of a run as it is today: by name, or from the user's file where the run has one.

    Raises UsageError where it is no longer there.
    """
    name = run.task_id
    if not run.task_file:
        return task(name)
    if not Path(run.task_file).is_file():
        raise UsageError(
            f"`{name}` was in `{run.task_file}`, which is gone",
            "put the file back where it was; docs/tasks.md shows how to install a task by name",
        )
    found = {one.id: one for one in _in_file(run.task_file)}
    if name not in found:
        raise UsageError(
            f"`{run.task_file}` no longer has a task `{name}`",
            did_you_mean(name, found, "put the task back into its TASKS"),
        )
    return found[name]


def tasks(spec: str) -> tuple[Task, ...]:
    """The tasks of a comma-separated list of names, groups and files: in order, each once.

    Raises UsageError for an unknown name and for an empty list.
    """
    names = [name.strip() for name in spec.split(",") if name.strip()]
    if not names:
        raise UsageError("no task was named", "`bench tasks list` shows what there is")
    found = [one for name in names for one in _named(name)]
    return tuple({one.id: one for one in found}.values())


def _named(name: str) -> tuple[Task, ...]:
    if name.endswith(FILE):
        return _in_file(name)
    return tuple(task(member) for member in groups().get(name, (name,)))


def all_tasks() -> tuple[Task, ...]:
    """Every task and variant, sorted by name, those of plugins included."""
    return tuple(found for _, found in sorted(_everything().items()))


def groups() -> dict[str, tuple[str, ...]]:
    """The names that stand for several tasks."""
    found: dict[str, tuple[str, ...]] = importlib.import_module("tasks.groups").GROUPS
    return found


@functools.cache
def _built_in() -> dict[str, Task]:
    package = importlib.import_module("tasks")
    modules = (
        importlib.import_module(f"tasks.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
    )
    # Modules without TASKS hold prompts or problems of another one.
    return _by_id(found for module in modules for found in vars(module).get("TASKS", ()))


@functools.cache
def _everything() -> dict[str, Task]:
    plugins = (found for point in entry_points(group=PLUGINS) for found in _plugin_tasks(point))
    return _by_id((*_built_in().values(), *plugins))


def _by_id(found: Iterable[Task]) -> dict[str, Task]:
    by_id: dict[str, Task] = {}
    for one in found:
        if one.id in by_id:
            raise UsageError(
                f"two tasks are called `{one.id}`", "rename one, or remove one of the plugins"
            )
        by_id[one.id] = one
    return by_id


def _plugin_tasks(point: EntryPoint) -> tuple[Task, ...]:
    hint = f"correct or remove the package that declares `{point.name} = {point.value}`"
    try:
        loaded: Any = point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the plugin `{point.name}` cannot be loaded: {error}", hint) from None
    if not _is_tuple_of_tasks(loaded):
        raise UsageError(f"`{point.value}` of plugin `{point.name}` is no tuple of tasks", hint)
    return tuple(loaded)


def _is_tuple_of_tasks(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, Task) for one in value)


def _in_file(path: str) -> tuple[Task, ...]:
    """The tasks of a user's own file, which may not have the names of tasks that are there."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UsageError(f"there is no task file `{path}`", "check the path for a slip")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, TypeError, NameError) as error:
        hint = "docs/tasks.md shows a whole task file"
        raise UsageError(f"the task file `{path}` cannot be loaded: {error}", hint) from None
    found: Any = vars(module).get("TASKS")
    if not found or not _is_tuple_of_tasks(found):
        raise UsageError(f"`{path}` has no tuple of tasks called TASKS", "add `TASKS = (task,)`")
    _by_id((*_everything().values(), *found))
    return tuple(replace(one, file=str(file)) for one in found)


def trainer(name: str) -> Trainer:
    """The training method of that name. Raises UsageError for one that there is not."""
    if name not in _trainer_modules():
        hint = did_you_mean(name, _trainer_modules(), "`bench trainers list` shows what there is")
        raise UsageError(f"unknown training method `{name}`", hint)
    found: Trainer = importlib.import_module(f"trainers.{name}").TRAINER
    return found


def trainers() -> tuple[Trainer, ...]:
    """Every training method, by name."""
    return tuple(trainer(name) for name in _trainer_modules())


@functools.cache
def _trainer_modules() -> tuple[str, ...]:
    """Modules of `trainers` that hold a method, known by their text: some of the others import
    torch, which the command line must not."""
    folders = importlib.import_module("trainers").__path__
    files = (file for folder in folders for file in Path(folder).glob("*.py"))
    return tuple(sorted(f.stem for f in files if "\nTRAINER = " in f.read_text(encoding="utf-8")))


def _only_task(path: str) -> Task:
    found = _in_file(path)
    if len(found) > 1:
        named = ", ".join(f"`{one.id}`" for one in found)
        raise UsageError(f"`{path}` holds several tasks: {named}", "leave one of them in TASKS")
    return found[0]


def _unknown(name: str, known: dict[str, Task]) -> UsageError:
    base, colon, variant = name.partition(":")
    variants = [one.variant for one in known.values() if one.name == base]
    if colon and variants:
        named = ", ".join(f"`{base}:{v}`" for v in variants if v) or f"only `{base}`"
        return UsageError(
            f"task `{base}` has no variant `{variant}`",
            did_you_mean(name, known, f"there is {named}"),
        )
    return UsageError(
        f"unknown task `{name}`",
        did_you_mean(name, {*known, *groups()}, "`bench tasks list` shows what there is"),
    )
