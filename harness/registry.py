"""Looks tasks up by name: those of the package `tasks`, its groups, and those of plugins.

A plugin is a distribution with an entry point in the group `tunebench.tasks` that loads to a tuple
of tasks. Nothing is imported before the first look-up.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.task import Task

PLUGINS = "tunebench.tasks"


def task(name: str) -> Task:
    """The task called `name`, as in `gsm8k` or, for another variant, `gsm8k:cot`.

    Raises UsageError for an unknown task or variant.
    """
    known = _built_in()
    if name not in known:
        known = _everything()
    if name not in known:
        raise _unknown(name, known)
    return known[name]


def tasks(spec: str) -> tuple[Task, ...]:
    """The tasks of a comma-separated list of names and groups: in order, each once.

    Raises UsageError for an unknown name and for an empty list.
    """
    names = [name.strip() for name in spec.split(",") if name.strip()]
    if not names:
        raise UsageError("no task was named", "`bench tasks list` shows what there is")
    expanded = [member for name in names for member in groups().get(name, (name,))]
    return tuple(task(name) for name in dict.fromkeys(expanded))


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
    if not isinstance(loaded, tuple) or not all(isinstance(one, Task) for one in loaded):
        raise UsageError(f"`{point.value}` of plugin `{point.name}` is no tuple of tasks", hint)
    return loaded


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
