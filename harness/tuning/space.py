"""What a search varies: fields of a recipe with their values, checked against the recipe."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel

from harness import recipes
from harness.errors import UsageError
from harness.search import Choices, Range, Search

MOST_CORNERS = 64

Value = Any
Point = dict[str, Value]  # a value for each field
Kind = Literal["float", "int", "choice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One field. low, high, log, step: of a number; choices: of anything else, as they are in the
    recipe."""

    path: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values between which all others lie: all choices, or the two ends of a range."""
        if self.kind == "choice":
            return self.choices
        if self.kind == "int":
            return int(self.low), int(self.high)
        return self.low, self.high

    @property
    def marks(self) -> tuple[str | int | float | bool | None, ...]:
        """The choices as a study can hold them: what is no number and no text becomes JSON."""
        plain = (str, int, float, bool, type(None))
        return tuple(
            one if isinstance(one, plain) else json.dumps(one, sort_keys=True)
            for one in self.choices
        )

    def value(self, found: Value) -> Value:
        """What a study holds, as the recipe has it."""
        if self.kind != "choice":
            return found
        return next(
            choice
            for choice, mark in zip(self.choices, self.marks, strict=True)
            if mark == found and type(mark) is type(found)
        )


def dimensions(search: Search, shapes: Sequence[type[BaseModel]], source: str) -> list[Dimension]:
    """The fields that are varied. shapes: of the methods that may be tried.

    Raises UsageError for a space of no size and for fields that do not exist.
    """
    if not search.space:
        raise UsageError(
            f"`search.space` in {source} is empty, so there is nothing to try",
            "`optimizer.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}`",
        )
    return [
        _dimension(path, given, _type(shapes, path, source)) for path, given in search.space.items()
    ]


def _type(shapes: Sequence[type[BaseModel]], path: str, source: str) -> Any:
    """Of the field in the first method that has it."""
    refused: UsageError | None = None
    for shape in shapes:
        try:
            return recipes.field_type(shape, path, f"`search.space` of {source}")
        except UsageError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _dimension(path: str, given: Range | Choices, annotation: Any) -> Dimension:
    if isinstance(given, Choices):
        return _choice(path, given, {annotation, *get_args(annotation)})
    return _number(path, given, _is_whole(annotation, given))


def _choice(path: str, given: Choices, kinds: set[Any]) -> Dimension:
    numbers = float in kinds and str not in kinds
    choices = tuple(_read(one) if numbers else one for one in given.choices)
    marks = [json.dumps(one, sort_keys=True) for one in choices]
    if len(set(marks)) < 2:
        raise UsageError(
            f"`search.space.{path}` has {len(set(marks))} value(s) to choose from",
            "a space needs two, or put the value into the recipe itself",
        )
    if len(set(marks)) < len(marks):
        raise UsageError(f"`search.space.{path}` has a value twice", "take one of them out")
    return Dimension(path=path, kind="choice", choices=choices)


def _read(value: Value) -> Value:
    """YAML takes `1e-05`, which has no point, for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value  # to be refused with the recipe that has it


def _is_whole(annotation: Any, given: Range) -> bool:
    kinds = {annotation, *get_args(annotation)}
    if int in kinds and float not in kinds:
        return True
    # Inside of a mapping nobody knows; whole ends mean whole numbers.
    numbers = [one for one in (given.low, given.high, given.step) if one is not None]
    return float not in kinds and all(isinstance(one, int) for one in numbers)


def _number(path: str, given: Range, whole: bool) -> Dimension:
    where, low, high, step = f"`search.space.{path}`", given.low, given.high, given.step
    if not low < high:
        raise UsageError(
            f"{where} goes from {low:g} to {high:g}, which leaves nothing to try",
            "make `low` smaller than `high`, or put the value into the recipe itself",
        )
    if whole and any(one is not None and one != int(one) for one in (low, high, step)):
        raise UsageError(f"{where} is a whole number", "use whole numbers for low, high and step")
    if given.log and low <= 0:
        raise UsageError(f"{where} has `log: true` and begins at {low:g}", "begin above 0")
    if given.log and step is not None:
        raise UsageError(f"{where} has both `log` and `step`", "take one of them out")
    if step is not None and not 0 < step <= high - low:
        raise UsageError(
            f"{where} has the step {step:g}, and only {high - low:g} from end to end",
            "make the step smaller",
        )
    if step is not None:
        high = low + step * int((high - low) / step + 1e-9)  # the last value that is reached
    kind: Kind = "int" if whole else "float"
    return Dimension(path=path, kind=kind, low=low, high=high, log=given.log, step=step)


def start(space: Sequence[Dimension]) -> Point:
    """The first value of each field."""
    return {one.path: one.ends[0] for one in space}


def corners(space: Sequence[Dimension], seed: int) -> Iterator[Point]:
    """Combinations of the ends of all fields: every one, or some drawn at random."""
    total = 1
    for one in space:
        total *= len(one.ends)
    paths = [one.path for one in space]
    if total <= MOST_CORNERS:
        for values in itertools.product(*(one.ends for one in space)):
            yield dict(zip(paths, values, strict=True))
        return
    generator = random.Random(seed)
    for _ in range(MOST_CORNERS):
        yield {one.path: generator.choice(one.ends) for one in space}


def settings(point: Mapping[str, Value]) -> dict[str, str]:
    """A point as `--set` has it."""
    return {path: recipes.setting(value) for path, value in point.items()}


def written(point: Mapping[str, Value]) -> str:
    """
    >>> written({"a.b": 0.001, "c": "x"})
    '`a.b=0.001`, `c=x`'
    """
    return ", ".join(f"`{path}={recipes.setting(value)}`" for path, value in point.items())
