"""Is there a trend along a sweep, and is it the direction's own? Permutation tests and a verdict.

Five points in a row prove nothing by themselves: any direction that is followed far enough changes
a separation steadily. So a trend counts only where it is in order (a permutation test over lambda,
within blocks of prompts), is more than sampling of prompts (an interval), and is more than random
directions of equal norm and shuffled labels do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Verdict = Literal["rises", "falls", "erratic", "flat", "undecided"]

ALPHA = 0.05
DIRECTION_ALPHA = 0.01
"""Stricter than ALPHA, so that the whole verdict keeps it where random effects have long tails."""

LEAST_CONTROLS = 19
"""Below this not even a direction that beats all random ones reaches ALPHA."""

TOLERANCE = 2.0
"""Standard errors that a step may go the wrong way and still count as none."""

_PERMUTATIONS = 9_999
_EXACT = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a verdict rests on. difference: at the largest lambda minus at the smallest.

    order_p: permutation test of the order along lambda. direction_p: how far the difference lies
    from those of random directions. shuffled_p: share of shuffled labels with as large a one.
    beaten: whether no random direction does as much. monotone: never falls by more than tolerance;
    antitone: never rises by more.
    """

    difference: float
    low: float
    high: float
    order_p: float
    direction_p: float
    shuffled_p: float
    beaten: bool
    controls: int
    monotone: bool
    antitone: bool

    @property
    def trend_p(self) -> float:
        """A trend needs both: so the larger of the two (an intersection-union test)."""
        return max(self.order_p, self.direction_p)

    @property
    def significant(self) -> bool:
        return (
            self.order_p <= ALPHA
            and self.direction_p <= DIRECTION_ALPHA
            and self.shuffled_p <= ALPHA
            and self.beaten
            and (self.low > 0 or self.high < 0)
        )

    @property
    def verdict(self) -> Verdict:
        if self.controls < LEAST_CONTROLS:
            return "undecided"
        if not self.significant:
            return "flat"
        if self.difference > 0:
            return "rises" if self.monotone else "erratic"
        return "falls" if self.antitone else "erratic"

    @property
    def decision(self) -> str:
        """What the project's ladder does next."""
        return "expand" if self.verdict == "rises" else "next rung"


def order_p(blocks: Values, seed: int = 0) -> float:
    """Two-sided p value of Page's L over blocks (blocks, points): is the order along the points
    the same in all blocks? Exact where few enough orders exist, else by 9,999 permutations.

    >>> round(order_p(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])), 4)  # 2 of 120 orders
    0.0167
    """
    ranks = np.stack([_ranks(block) for block in blocks])
    points = ranks.shape[1]
    steps = np.arange(1, points + 1, dtype=float)
    centre = len(ranks) * steps.sum() * (points + 1) / 2
    observed = abs(float((ranks @ steps).sum()) - centre)
    exact = math.factorial(points) ** len(ranks) <= _EXACT if points <= 8 else False
    others = _every_order(ranks, steps) if exact else _some_orders(ranks, steps, seed)
    reached = int((np.abs(others - centre) >= observed - 1e-9).sum())
    return reached / len(others) if exact else (reached + 1) / (len(others) + 1)


def _every_order(ranks: Values, steps: Values) -> Values:
    sums = np.zeros(1)
    for block in ranks:
        own = np.array([np.dot(order, steps) for order in itertools.permutations(block)])
        sums = (sums[:, None] + own[None, :]).ravel()
    return sums


def _some_orders(ranks: Values, steps: Values, seed: int) -> Values:
    generator = np.random.default_rng(seed)
    sums = np.zeros(_PERMUTATIONS)
    for block in ranks:
        sums += generator.permuted(np.tile(block, (_PERMUTATIONS, 1)), axis=1) @ steps
    return sums


def _ranks(values: Values) -> Values:
    """From 1; equal values share their mean rank."""
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    return np.asarray((last - (size - 1) / 2)[place], dtype=float)


def direction_p(own: float, random: Sequence[float]) -> float:
    """Two-sided p value of one more draw lying this far from the draws of random directions.

    Student's t of a prediction, since a rank among 19 can never say less than one in twenty.
    """
    if len(random) < 2:
        return 1.0
    from scipy.stats import t

    n = len(random)
    deviation = float(np.std(random, ddof=1)) * math.sqrt(1 + 1 / n)
    distance = abs(own - float(np.mean(random)))
    if deviation == 0:
        return 1.0 if distance == 0 else 0.0
    return float(2 * t.sf(distance / deviation, n - 1))


def is_beaten(own: float, random: Sequence[float]) -> bool:
    """Whether every random direction does less, either way."""
    return all(abs(other) < abs(own) for other in random)


def share_reaching(own: float, others: Values) -> float:
    """Permutation p value: share of the others, and of this one, that are as far from zero."""
    return (int((np.abs(others) >= abs(own)).sum()) + 1) / (len(others) + 1)


def is_monotone(values: Values, errors: Values, *, rising: bool = True) -> bool:
    """Whether no step goes the other way by more than TOLERANCE of its standard error.

    values: (points,). errors: (points - 1,), of each step, from resamples shared by its two ends.
    """
    steps = np.diff(values) if rising else -np.diff(values)
    return bool(np.all(steps >= -TOLERANCE * errors - 1e-12))
