"""Intervals and tests for scores, in plain Python: no number here needs a package.

Percentages of the same questions are compared in pairs: the difference between two models is far
better known than either score, since both met the same hard and the same easy questions.
"""

from __future__ import annotations

import math
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
    return _wilson(successes / n, n, z)


def _wilson(share: float, n: float, z: float = Z95) -> Interval:
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    centre = share + z * z / (2 * n)
    scale = 1 + z * z / n
    # At 0 and 1 one exact bound is 0 or 1, which rounding would miss by 1e-17.
    low = 0.0 if share == 0 else (centre - spread) / scale
    high = 1.0 if share == 1 else (centre + spread) / scale
    return Interval(low=low, high=high)


def wilson_clustered(share: float, stderr: float, clusters: int, n: int) -> Interval:
    """Wilson's interval for a share of n answers that hang together in clusters.

    The n of independent answers that would have the same `stderr` takes the place of n (Korn and
    Graubard 1998), and is never below the number of clusters nor above n. Unlike the normal
    interval it stays inside 0..1 and keeps a width when every answer is right.

    >>> interval = wilson_clustered(0.5, stderr=0.1, clusters=10, n=160)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.318, 0.682)
    """
    spread = share * (1 - share)
    effective = n if stderr**2 * n <= spread else spread / stderr**2
    if spread < 1e-12:
        effective = clusters
    return _wilson(share, max(clusters, effective))


def clustered_stderr(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Standard error of the mean of values that hang together in clusters.

    The sandwich estimator over cluster sums (Liang and Zeger 1986), times g / (g - 1) for g
    clusters: with one value a cluster it is `mean_stderr`'s. One cluster alone tells nothing: 0.

    >>> clustered_stderr([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])
    0.5
    >>> clustered_stderr([0.0, 1.0, 1.0, 1.0], ["a", "b", "c", "d"])
    0.25
    """
    n = len(values)
    mean = math.fsum(values) / n
    sums: dict[str, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if len(sums) == 1:
        return 0.0
    squares = math.fsum(total**2 for total in sums.values())
    return math.sqrt(squares * len(sums) / (len(sums) - 1)) / n


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of the n completions, drawn without replacement, hold a correct one.

    1 - C(n - correct, k) / C(n, k), Chen et al. 2021 (arXiv 2107.03374), as a product so that it
    does not overflow. Raises ValueError if k > n.

    >>> pass_at_k(n=2, correct=1, k=1)
    0.5
    >>> round(pass_at_k(n=16, correct=4, k=8), 6)
    0.961538
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to n, not {k} of {n}")
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod((n - correct - i) / (n - i) for i in range(k))


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One part of a standard error, and the 95 % interval of that part itself."""

    stderr: float
    interval: Interval


def split_variance(questions: Sequence[Sequence[float]]) -> tuple[Component, Component]:
    """The standard error of a mean over questions, split in (sampling, question) parts.

    questions: the scores of two or more completions of each of two or more questions. The squares
    of both parts add up to that of the whole (Miller 2024, arXiv 2411.00640): the sampling part is
    what more completions would shrink, the question part what only more questions would. Where
    chance made the latter negative it is 0.

    >>> sampling, question = split_variance([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    >>> round(sampling.stderr, 4), round(question.stderr, 4)
    (0.1667, 0.2357)
    """
    n = len(questions)
    within = [mean_stderr(scores)[1] ** 2 for scores in questions]
    means = [math.fsum(scores) / len(scores) for scores in questions]
    centre = math.fsum(means) / n
    whole = [(mean - centre) ** 2 * n / (n - 1) for mean in means]
    between = [total - inner for total, inner in zip(whole, within, strict=True)]
    return _component(within), _component(between)


def _component(contributions: Sequence[float]) -> Component:
    """The root of the mean contribution over n, with the interval of that mean carried over."""
    mean, stderr = mean_stderr(contributions)
    n = len(contributions)

    def root(variance: float) -> float:
        return math.sqrt(max(0.0, variance) / n)

    interval = Interval(low=root(mean - Z95 * stderr), high=root(mean + Z95 * stderr))
    return Component(stderr=root(mean), interval=interval)


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


_DRAWS = 150_000_000
"""Questions drawn in all by one bootstrap, about two seconds; bounds the number of resamples."""
_DRAWS_AT_ONCE = 1_000_000


def _upper_tail(score: float) -> float:
    return 0.5 * math.erfc(score / math.sqrt(2))


def share_loss_p(won: int, lost: int, n: int, margin: float) -> float:
    """One-sided p that the true difference of two shares is -margin or worse.

    Tango's score test of non-inferiority: where it is below .05, a loss over `margin` is excluded,
    and the lower end of the 90 % interval lies above -margin.

    >>> round(share_loss_p(won=30, lost=30, n=2000, margin=0.01), 4)
    0.0068
    """
    return _upper_tail(_tango_score(won, lost, n, -margin))


def loss_p(delta: float, stderr: float, margin: float) -> float:
    """The same for graded scores, by the normal distribution."""
    if stderr == 0:
        return 0.0 if delta > -margin else 1.0
    return _upper_tail((delta + margin) / stderr)


def paired_bootstrap(
    differences: Sequence[float], seed: int = 0, resamples: int | None = None
) -> PairedTest:
    """Mean of paired differences with a bootstrap interval and p value; the same for a seed.

    The interval is BCa (Efron 1987). p is the share of resampled means, moved to mean zero, that
    lie as far out as the data, but never less than a sign test of the questions that differ could
    give: resampling three equal differences would otherwise seem certain.
    resamples: 10,000 unless given, fewer (at least 1,000) above 15,000 questions.
    """
    n = len(differences)
    delta, stderr = mean_stderr(differences)
    changed = sum(difference != 0 for difference in differences)
    least_p = min(1.0, 2.0 ** (1 - changed))
    if stderr < 1e-12:
        return PairedTest(delta=delta, interval=Interval(low=delta, high=delta), p=least_p)
    count = resamples or max(1_000, min(10_000, _DRAWS // n))
    means = _resampled_means(differences, seed, count)
    # Means that tie with the data up to rounding count as being as far out.
    distance = abs(delta) - 1e-12
    farther = sum(abs(mean - delta) >= distance for mean in means)
    p = max((1 + farther) / (1 + count), least_p)
    return PairedTest(delta=delta, interval=_bca(means, differences, delta), p=p)


_LARGE = 1_000
"""From here on the bootstrap of a mean and the normal interval are the same to the eye."""


def mean_interval(values: Sequence[float], seed: int = 0, resamples: int = 2_000) -> Interval:
    """95 % interval of the mean of graded scores: BCa bootstrap, the same for a seed.

    Normal from 1,000 values on, where the two no longer differ. No width for equal values.

    >>> interval = mean_interval([0.1, 0.4, 0.5, 0.9, 1.0, 0.7, 0.2, 0.3])
    >>> round(interval.low, 2), round(interval.high, 2)
    (0.32, 0.74)
    """
    mean, stderr = mean_stderr(values)
    if len(values) >= _LARGE or stderr < 1e-12:
        return normal_interval(mean, stderr)
    return _bca(_resampled_means(values, seed, resamples), values, mean)


def _resampled_means(values: Sequence[float], seed: int, count: int) -> list[float]:
    import numpy as np  # a tenth of a second that only a bootstrap should cost

    generator, array, n = np.random.default_rng(seed), np.asarray(values, dtype=float), len(values)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    means = [
        array[generator.integers(n, size=(min(at_once, count - done), n), dtype=np.int32)].mean(1)
        for done in range(0, count, at_once)
    ]
    return [float(mean) for mean in np.sort(np.concatenate(means))]


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
