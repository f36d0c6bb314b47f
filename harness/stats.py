"""Intervals and tests for scores, in plain Python: no number here needs a package.

Percentages of the same questions are compared in pairs: the difference between two models is far
better known than either score, since both met the same hard and the same easy questions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)
_Z80 = NormalDist().inv_cdf(0.80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """The mean of paired differences, its 95 % interval and a two-sided p value."""

    delta: float
    interval: Interval
    p: float


def mean_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error (sample deviation, n - 1); the error of one value is 0.

    >>> mean_stderr([0.0, 1.0, 1.0, 1.0])
    (0.75, 0.25)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, 0.0
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (n - 1) / n)


def wilson(successes: int, n: int, z: float = Z95) -> Interval:
    """Score interval of a share (Wilson 1927): stays inside 0..1, right for few questions.

    >>> interval = wilson(32, 50)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.501, 0.759)
    """
    share = successes / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    centre = share + z * z / (2 * n)
    scale = 1 + z * z / n
    # At 0 and at n the exact bound is 0 or 1, which rounding would miss by 1e-17.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return Interval(low=low, high=high)


def normal_interval(mean: float, stderr: float, z: float = Z95) -> Interval:
    """Mean plus and minus z standard errors."""
    return Interval(low=mean - z * stderr, high=mean + z * stderr)


def mcnemar_exact(lost: int, won: int) -> float:
    """Two-sided p that as many of the changed questions went one way by chance.

    Exact binomial with one half (McNemar 1947). Questions on which both agree say nothing.

    >>> mcnemar_exact(lost=2, won=8)
    0.109375
    """
    changed = lost + won
    if lost == won:
        return 1.0
    term = tail = 1
    # Whole numbers of any size, so neither overflow nor a lost tail.
    for k in range(min(lost, won)):
        term = term * (changed - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << changed))


def paired_share_interval(won: int, lost: int, n: int, z: float = Z95) -> Interval:
    """Score interval of the difference of two shares on the same n questions, (won - lost) / n.

    Tango 1998 (Statistics in Medicine 17:891): keeps its coverage for few questions and for none
    changed, where the usual interval would have no width.

    >>> interval = paired_share_interval(won=1, lost=7, n=21)
    >>> round(interval.low, 3), round(interval.high, 3)
    (-0.517, -0.026)
    """
    delta = (won - lost) / n

    def distance(difference: float) -> float:
        return _tango_score(won, lost, n, difference)

    low = -1.0 if lost == n else _crossing(distance, z, -1.0, delta)
    high = 1.0 if won == n else _crossing(distance, -z, delta, 1.0)
    return Interval(low=low, high=high)


def _tango_score(won: int, lost: int, n: int, difference: float) -> float:
    """How many standard errors the data lie above a true difference; falls in `difference`."""
    linear = (2 * n - won + lost) * difference - won - lost
    constant = -lost * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    lost_share = (root - linear) / (4 * n)
    variance = n * (2 * lost_share + difference * (1 - difference))
    excess = won - lost - n * difference
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def _crossing(falling: Callable[[float], float], level: float, low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def paired_shares(won: int, lost: int, n: int) -> PairedTest:
    """Difference of two shares on the same questions: Tango's interval, McNemar's exact test.

    The exact test is the more cautious: with few changed questions the interval may leave out 0
    while p is above .05. Verdicts follow p.
    """
    return PairedTest(
        delta=(won - lost) / n,
        interval=paired_share_interval(won, lost, n),
        p=mcnemar_exact(lost, won),
    )


_DRAWS = 15_000_000
"""Questions drawn in all by one bootstrap, about two seconds; bounds the number of resamples."""


def paired_bootstrap(
    differences: Sequence[float], seed: int = 0, resamples: int | None = None
) -> PairedTest:
    """Mean of paired differences with a bootstrap interval and p value; the same for a seed.

    The interval is BCa (Efron 1987). p is the share of resampled means, moved to mean zero, that
    lie as far out as the data, but never less than a sign test of the questions that differ could
    give: resampling three equal differences would otherwise seem certain.
    resamples: 10,000 unless given, fewer (at least 1,000) above 1,500 questions.
    """
    n = len(differences)
    delta, stderr = mean_stderr(differences)
    changed = sum(difference != 0 for difference in differences)
    least_p = min(1.0, 2.0 ** (1 - changed))
    if stderr < 1e-12:
        return PairedTest(delta=delta, interval=Interval(low=delta, high=delta), p=least_p)
    count = resamples or max(1_000, min(10_000, _DRAWS // n))
    choices = random.Random(seed).choices
    means = sorted(sum(choices(differences, k=n)) / n for _ in range(count))
    # Means that tie with the data up to rounding count as being as far out.
    distance = abs(delta) - 1e-12
    farther = sum(abs(mean - delta) >= distance for mean in means)
    p = max((1 + farther) / (1 + count), least_p)
    return PairedTest(delta=delta, interval=_bca(means, differences, delta), p=p)


def _bca(means: Sequence[float], values: Sequence[float], centre: float) -> Interval:
    """Bias-corrected and accelerated 95 % interval from sorted resampled means."""
    count = len(means)
    below = sum(mean < centre - 1e-12 for mean in means)
    ties = sum(abs(mean - centre) <= 1e-12 for mean in means)
    share = min(max((below + ties / 2) / count, 1 / count), 1 - 1 / count)
    normal = NormalDist()
    bias = normal.inv_cdf(share)
    squares = math.fsum((value - centre) ** 2 for value in values)
    cubes = math.fsum((value - centre) ** 3 for value in values)
    acceleration = cubes / (6 * squares**1.5)

    def bound(z: float) -> float:
        shifted = bias + (bias + z) / (1 - acceleration * (bias + z))
        return means[min(count - 1, max(0, round(normal.cdf(shifted) * (count - 1))))]

    return Interval(low=bound(-Z95), high=bound(Z95))


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted for having asked several questions at once (Holm 1979), in given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    scaled = (min(1.0, ps[i] * (len(ps) - rank)) for rank, i in enumerate(order))
    adjusted = dict(zip(order, accumulate(scaled, max), strict=True))
    return [adjusted[i] for i in range(len(ps))]


FEWEST_CHANGED = 6
"""With fewer changed questions even an all one-sided change has an exact p above .05."""


def detectable_share_difference(won: int, lost: int, n: int) -> float:
    """The true difference that this comparison would call significant four times in five.

    Two-sided .05, power .8, at the observed share of changed questions with half a question added
    to each cell (Agresti and Min 2005), and never less than the exact test can call at all.

    >>> round(detectable_share_difference(won=60, lost=60, n=500), 3)
    0.061
    """
    changed = (won + lost + 1) / (n + 2)
    return detectable_difference(math.sqrt(changed / (n + 2)), n)


def detectable_difference(stderr: float, n: int) -> float:
    """As above for scores between 0 and 1 whose mean difference has the standard error `stderr`."""
    return max((Z95 + _Z80) * stderr, FEWEST_CHANGED / n)
