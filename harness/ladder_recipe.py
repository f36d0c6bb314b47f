"""Ladders: recipes whose rungs are climbed one by one, from a free check to the full training.

A rung trains (the recipe itself with changes, or other recipes), compares models that are there
already, follows the vector between two checkpoints, or several of these; `success` says what must
hold for the next one to be worth its cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness import recipes
from harness.criteria import Criterion, criterion
from harness.errors import UsageError
from harness.types import JSON

_FORBID = ConfigDict(extra="forbid", frozen=True)
_NAME = re.compile(r"[A-Za-z0-9_]+")


class Cost(BaseModel):
    """What a rung takes: as given in hours and dollars, or estimated on a GPU (`A40-48GB×2`)."""

    model_config = _FORBID

    gpu: str | None = None
    hours: float | None = None
    usd: float | None = None


class Training(BaseModel):
    """A recipe that a rung trains. set: its fields by dotted path. register: what its model is
    called, here `made` (pydantic has a `register` of its own). examples, tokens: for the estimate,
    where its data is not on this machine yet."""

    model_config = _FORBID

    recipe: str
    set: dict[str, Any] = {}
    made: str = Field(alias="register")
    examples: int | None = None
    tokens: float | None = None


class Compared(BaseModel):
    """Two models that are there, on tasks."""

    model_config = _FORBID

    base: str
    tuned: str
    tasks: tuple[str, ...]


class Sweep(BaseModel):
    """`bench steer`. model: a pair, or two names with a comma between them. Its further options may
    stand beside; `harness.rungs` checks them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str
    lambdas: str = "0,0.25,0.5,0.75,1"


class Rung(BaseModel):
    """One rung. set: changes of the ladder's own recipe, which is then trained. train: other
    recipes instead, one after the other. success: a criterion (`harness.criteria`)."""

    model_config = _FORBID

    name: str
    description: str = ""
    set: dict[str, Any] | None = None
    train: tuple[Training, ...] = ()
    compare: Compared | None = None
    steer: Sweep | None = None
    cost: Cost | None = None
    success: str


class _Shape(BaseModel):
    model_config = _FORBID

    rungs: tuple[Rung, ...]


class _Alone(_Shape):
    """A ladder without a recipe of its own."""

    description: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A rung as it will be climbed."""

    rung: Rung
    trainings: tuple[Training, ...]
    success: Criterion

    @property
    def name(self) -> str:
        return self.rung.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """values: all that was written, which identifies the ladder. model: of its own recipe."""

    name: str
    path: Path
    description: str
    model: str
    values: JSON
    steps: tuple[Step, ...]


def is_ladder(name: str, settings: Mapping[str, str]) -> bool:
    return bool(recipes.written(name, settings)[1].get("rungs"))


def read(name: str, settings: Mapping[str, str], register: str | None = None) -> Ladder:
    """The ladder of that name or path. register: names of its own models begin so.

    Raises UsageError for a key, value or criterion that cannot be.
    """
    path, values = recipes.written(name, settings)
    own = "method" in values
    checked = {"rungs": values["rungs"]} if own else values
    shape: _Shape = recipes.validated(checked, _Shape if own else _Alone, str(path))
    _check_names([rung.name for rung in shape.rungs], path)
    if register is not None and not own:
        raise UsageError(
            f"`--register {register}`: the ladder `{path.stem}` names its models itself",
            "leave it out, or `--set rungs.0.train.0.register=NAME`",
        )
    of_recipe = {key: text for key, text in settings.items() if key.partition(".")[0] != "rungs"}
    stem = register or path.stem
    steps = [_step(rung, name, of_recipe, stem, path, own=own) for rung in shape.rungs]
    return Ladder(
        name=path.stem,
        path=path,
        description=str(values.get("description", "")),
        model=str(values.get("model", "")),
        values=values,
        steps=tuple(steps),
    )


def _check_names(names: Sequence[str], path: Path) -> None:
    if not names:
        raise UsageError(f"the ladder `{path.stem}` has no rung", "list some under `rungs:`")
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"a rung of `{path.stem}` is called `{name}`", "use letters, digits and `_`"
            )
        if names.count(name) > 1:
            raise UsageError(f"`{path.stem}` has two rungs `{name}`", "name each differently")


def _step(
    rung: Rung, name: str, settings: Mapping[str, str], stem: str, path: Path, *, own: bool
) -> Step:
    if rung.set is not None and (rung.train or not own):
        why = "it has `train` too" if own else "the ladder has no recipe of its own"
        raise UsageError(
            f"the rung `{rung.name}` changes the ladder's recipe by `set`, and {why}",
            "give `set` to each training in `train`",
        )
    trainings = tuple(_beside(one, path) for one in rung.train)
    if rung.set is not None:
        changes = {**settings, **as_settings(rung.set), "rungs": ""}
        trainings = (Training(recipe=name, set=changes, register=f"{stem}_{rung.name}"),)
    if not trainings and rung.compare is None and rung.steer is None:
        raise UsageError(
            f"the rung `{rung.name}` of `{path.stem}` does nothing",
            "give it `set`, `train`, `compare` or `steer`",
        )
    return Step(rung=rung, trainings=trainings, success=criterion(rung.success))


def _beside(one: Training, path: Path) -> Training:
    """Recipes are looked for beside the ladder first."""
    near = path.parent / f"{one.recipe.removesuffix(recipes.SUFFIX)}{recipes.SUFFIX}"
    found = str(near) if near.is_file() and one.recipe not in recipes.names() else one.recipe
    return one.model_copy(update={"recipe": found, "set": as_settings(one.set)})


def as_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Values by dotted path as `--set` gives them."""
    return {key: recipes.setting(value) for key, value in values.items()}


def made(steps: Sequence[Step]) -> Iterator[str]:
    """Names of the models that the trainings register."""
    for step in steps:
        yield from (one.made for one in step.trainings)
