"""The points of a sweep: which direction, how far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import UsageError

NONE, NEGATED, RANDOM, SHUFFLED = "none", "negated", "random", "shuffled"
UNSTEERED = "unsteered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """control: `none` for the vector itself, `negated`, or `random_1`, `random_2`, …
    vector: name of the direction that is added; strength: with which factor."""

    control: str
    strength: float
    vector: str
    sign: int = 1

    @property
    def added(self) -> tuple[str, float]:
        """What is really done to the model: equal ones are taken once."""
        return (UNSTEERED, 0.0) if self.strength == 0 else (self.vector, self.sign * self.strength)


def parse_lambdas(text: str) -> tuple[float, ...]:
    """Ascending, each once, with 0 among them: it is what all others are compared with.

    Raises UsageError for one that is no number between -1 and 1, and for a single one.
    """
    found = [_lambda(part.strip(), text) for part in text.split(",")]
    lambdas = tuple(sorted({*found, 0.0}))
    if len(lambdas) < 2:
        raise UsageError(f"`--lambdas {text}` is no sweep", "for example `--lambdas 0,0.5,1`")
    return lambdas


def _lambda(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(
            f"`{part}` in `--lambdas {text}` is not a number", "for example `0,0.25,0.5,0.75,1`"
        )
    if not -1 <= value <= 1:
        raise UsageError(
            f"lambda `{part}` is outside -1 to 1", "1 adds the whole vector, -1 takes it away"
        )
    return value + 0.0  # no negative zero


def points(lambdas: Sequence[float], controls: int) -> Iterator[Point]:
    """The vector, its opposite and one random direction everywhere; further random directions only
    at the two ends, where their difference is read."""
    for strength in lambdas:
        yield Point(control=NONE, strength=strength, vector="v")
    for strength in lambdas:
        yield Point(control=NEGATED, strength=strength, vector="v", sign=-1)
    for number in range(1, controls + 1):
        name = f"{RANDOM}_{number}"
        for strength in lambdas if number == 1 else (lambdas[0], lambdas[-1]):
            yield Point(control=name, strength=strength, vector=name)
