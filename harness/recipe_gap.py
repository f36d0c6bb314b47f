"""Two recipes side by side: every setting in which they differ, with the ratio of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.recipes import Asked

_TALK = ("description", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One setting that differs, by its dotted path. ratio: b over a, None where there is none."""

    setting: str
    a: Any
    b: Any
    ratio: float | None


def gaps(a: Asked, b: Asked) -> list[Gap]:
    """The settings in which two recipes differ, defaults of both filled in, in order of a."""
    ours, theirs = (dict(_flat(one.shape.model_dump())) for one in (a, b))
    names = [name for name in {**ours, **theirs} if name.split(".")[0] not in _TALK]
    return [
        Gap(setting=name, a=ours.get(name), b=theirs.get(name), ratio=_ratio(ours, theirs, name))
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def in_words(ratio: float | None) -> str:
    """The ratio as a gap: how many times b is higher or lower.

    >>> in_words(0.025), in_words(2.0), in_words(None)
    ('40× lower', '2× higher', '')
    """
    if ratio is None:
        return ""
    times, how = (ratio, "higher") if ratio > 1 else (1 / ratio, "lower")
    return f"{times:,.3g}× {how}"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their dotted paths; of a list by the place in it. An empty section is no leaf."""
    if isinstance(value, Mapping):
        parts = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        parts = [(str(place), inner) for place, inner in enumerate(value)]
    else:
        yield path, value
        return
    for name, inner in parts:
        yield from _flat(inner, f"{path}.{name}" if path else name)


def _ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> float | None:
    numbers = [values.get(name) for values in (ours, theirs)]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        return None
    first, second = (float(one or 0) for one in numbers)
    # A seed is a name, not an amount.
    if min(first, second) <= 0 or name.rpartition(".")[2] == "seed":
        return None
    return second / first
