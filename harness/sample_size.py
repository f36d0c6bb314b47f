"""How many questions a comparison needs, and what a number of questions can show.

Two ways: for answers that are right or wrong the power of the exact test itself, since with few
changed questions it finds less than the usual formula promises; for graded scores, and for means of
several answers, the formula n = (z of 1 - alpha/2 + z of power)² · variance / difference², with the
variance of one question's difference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

_NORMAL = NormalDist()
_EXACT_UP_TO = 200
"""Changed questions up to which binomial tails are summed; beyond, the normal with continuity
correction is the same to three digits."""

MOST_QUESTIONS = 100_000_000


def changed_share(share: float, correlation: float) -> float:
    """Share of questions on which two equally good models differ: 2 p (1 - p) (1 - correlation).

    It is also the variance of one question's difference between them.

    >>> round(changed_share(0.5, 0.7), 3)
    0.15
    """
    return 2 * share * (1 - share) * (1 - correlation)


def mcnemar_power(n: int, variance: float, delta: float, alpha: float = 0.05) -> float:
    """Chance that McNemar's exact test calls a true difference `delta` over n questions better.

    variance: of one question's difference. The share of questions on which the models differ is
    that plus delta², and at least `delta`.

    >>> round(mcnemar_power(n=3040, variance=0.15, delta=0.02), 2)
    0.8
    """
    changed = min(1.0, max(delta, variance + delta**2))
    if changed <= 0:
        return 0.0
    won_share = (1 + delta / changed) / 2
    weights = power = 0.0
    for count, weight in _counts(n, changed):
        weights += weight
        power += weight * _tail(count, won_share, _critical(count, alpha))
    return power / weights


def questions_needed(
    variance: float, delta: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """The fewest questions with which the exact test finds `delta` with chance `power`.

    None where not even a hundred million would do.

    >>> 2950 < questions_needed(variance=0.15, delta=0.02) < 3050
    True
    """
    return _fewest(lambda n: mcnemar_power(n, variance, delta, alpha) >= power)


def smallest_difference(
    n: int, variance: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest true difference that n questions show with chance `power`; None if none.

    >>> round(smallest_difference(n=1319, variance=0.15), 3)
    0.031
    """
    return _smallest(lambda delta: mcnemar_power(n, variance, delta, alpha) >= power)


def normal_power(n: int, variance: float, delta: float, alpha: float = 0.05) -> float:
    """Chance to find `delta` where one question's difference has this variance."""
    if variance <= 0:
        return 1.0
    z = _NORMAL.inv_cdf(1 - alpha / 2)
    return _NORMAL.cdf(delta * math.sqrt(n / variance) - z)


def normal_needed(
    variance: float, delta: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Questions by the formula at the head of this module.

    >>> normal_needed(variance=0.15, delta=0.02), normal_needed(variance=0.5, delta=0.01)
    (2944, 39245)
    """
    n = max(1, math.ceil(_quantiles(power, alpha) ** 2 * variance / delta**2))
    return n if n <= MOST_QUESTIONS else None


def normal_difference(n: int, variance: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The difference that n questions show by that formula.

    >>> round(normal_difference(n=1319, variance=0.5), 3)
    0.055
    """
    return _quantiles(power, alpha) * math.sqrt(max(0.0, variance) / n)


def _quantiles(power: float, alpha: float) -> float:
    return _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)


def _counts(n: int, share: float) -> Iterator[tuple[int, float]]:
    """Numbers of changed questions with their (unnormalised) binomial weights.

    All that matter where they are few, evenly spaced ones where they are many.
    """
    mean, spread = n * share, math.sqrt(n * share * (1 - share))
    low, high = max(0, math.floor(mean - 6 * spread)), min(n, math.ceil(mean + 6 * spread))
    top = _log_weight(n, share, min(n, round(mean)))
    for count in range(low, high + 1, max(1, round(spread / 15))):
        yield count, math.exp(_log_weight(n, share, count) - top)


def _log_weight(n: int, share: float, count: int) -> float:
    """Logarithm of the chance of `count` of n."""
    if share >= 1:
        return 0.0 if count == n else -math.inf
    choices = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return choices + count * math.log(share) + (n - count) * math.log1p(-share)


@functools.cache
def _critical(count: int, alpha: float) -> int:
    """The fewest wins among `count` changed questions that are significant; more than `count`
    where not even all of them are."""
    if count > _EXACT_UP_TO:
        z = _NORMAL.inv_cdf(1 - alpha / 2)
        return math.ceil(count / 2 + 0.5 + z * math.sqrt(count) / 2)
    ways, wins = 0, count + 1
    while wins > 0 and 2 * (ways + math.comb(count, wins - 1)) <= alpha * (1 << count):
        wins -= 1
        ways += math.comb(count, wins)
    return wins


def _tail(count: int, share: float, least: int) -> float:
    """Chance of at least `least` wins among `count`."""
    if least > count:
        return 0.0
    if count > _EXACT_UP_TO and share < 1:
        spread = math.sqrt(count * share * (1 - share))
        return _NORMAL.cdf((count * share - least + 0.5) / spread)
    some = range(least, count + 1)
    return min(1.0, math.fsum(math.exp(_log_weight(count, share, k)) for k in some))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    high = 8
    while not enough(high):
        high *= 2
        if high > MOST_QUESTIONS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _smallest(enough: Callable[[float], bool]) -> float | None:
    if not enough(1.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
