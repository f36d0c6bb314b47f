"""Bootstrap resamples of labelled points as counts, and the indices of all resamples at once.

A resample is a column of counts: how often each point was drawn. Sums over resamples are then
matrix products, which is what makes an interval at each point of a sweep affordable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.geometry.distances import Labels, Points, dunn, sums

RESAMPLES = 200
_DUNN_RESAMPLES = 40  # each looks at all distances anew
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What resampling says about a value: standard error and a 95 % percentile interval."""

    stderr: float
    low: float
    high: float


def spread(values: NDArray[np.float64], value: float) -> Spread:
    """Around `value`, from the finite values of all resamples.

    Percentiles moved by the bias of the bootstrap: repeated points lie on each other, so resamples
    of noise look more separated than the points that they were drawn from.
    """
    finite = values[np.isfinite(values)]
    if len(finite) < 2 or not np.isfinite(value):
        return Spread(stderr=0.0, low=value, high=value)
    low, high = np.percentile(finite, [2.5, 97.5]) - (finite.mean() - value)
    return Spread(stderr=float(finite.std(ddof=1)), low=float(low), high=float(high))


def counts(groups: Sequence[str], safe: Labels, seed: int = 0, n: int = RESAMPLES) -> Points:
    """Counts (points, n) of n resamples.

    Prompts of a group (an axiom) hang together, so whole groups are drawn, where all of several
    hold both classes. Else groups say nothing about how far a sample would vary (a class may be a
    single group), and the prompts of each class are drawn one by one.
    """
    generator = np.random.default_rng(seed)
    names = np.asarray(groups)
    members = [np.flatnonzero(names == name) for name in dict.fromkeys(groups)]
    drawn = np.zeros((len(safe), n))
    if len(members) > 1 and all(0 < safe[m].sum() < len(m) for m in members):
        for column in range(n):
            for index in generator.integers(len(members), size=len(members)):
                drawn[members[index], column] += 1
        return drawn
    for side in (np.flatnonzero(safe), np.flatnonzero(~safe)):
        for column in range(n):
            np.add.at(drawn[:, column], generator.choice(side, size=len(side)), 1.0)
    return drawn


def separations(points: Points, safe: Points, unsafe: Points) -> NDArray[np.float64]:
    """1 / XB of each column of counts (n, columns) of the two classes: shape (columns,)."""
    centred = points - points.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    centres, within, total = [], 0.0, 0.0
    for weights in (safe, unsafe):
        size = weights.sum(axis=0)
        centre = weights.T @ centred / size[:, None]
        within = within + squares @ weights - size * (centre**2).sum(axis=1)
        total = total + size
        centres.append(centre)
    apart = ((centres[0] - centres[1]) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(total * apart / within)


def silhouette_means(points: Points, labels: Labels, drawn: Points) -> NDArray[np.float64]:
    """Mean silhouette of each resample: shape (resamples,)."""
    own = np.where(labels[:, None], drawn, 0.0), np.where(labels[:, None], 0.0, drawn)
    to_sides = np.split(sums(points, np.concatenate(own, axis=1)), 2, axis=1)
    sizes = [side.sum(axis=0) for side in own]
    total = np.zeros(drawn.shape[1])
    for near, far in ((0, 1), (1, 0)):
        inside = labels if near == 0 else ~labels
        a = to_sides[near][inside] / np.maximum(sizes[near] - 1, 1)
        b = to_sides[far][inside] / sizes[far]
        largest = np.maximum(a, b)
        values = np.divide(b - a, largest, out=np.zeros_like(a), where=largest > 0)
        total += (values * drawn[inside] * (sizes[near] > 1)).sum(axis=0)
    return np.asarray(total / drawn.sum(axis=0))


def aucs(scores: Points, labels: Labels, drawn: Points) -> NDArray[np.float64]:
    """Area under the curve of each resample, equal scores counting half: shape (resamples,)."""
    _, place = np.unique(scores, return_inverse=True)
    levels = int(place.max()) + 1
    safe, unsafe = (np.zeros((levels, drawn.shape[1])) for _ in range(2))
    np.add.at(safe, place[labels], drawn[labels])
    np.add.at(unsafe, place[~labels], drawn[~labels])
    below = np.cumsum(unsafe, axis=0) - unsafe / 2
    return np.asarray((safe * below).sum(axis=0) / (safe.sum(axis=0) * unsafe.sum(axis=0)))


def davies_bouldins(points: Points, labels: Labels, drawn: Points) -> NDArray[np.float64]:
    """Davies-Bouldin index of each resample: shape (resamples,)."""
    found = []
    for column in drawn.T:
        radii, centres = 0.0, []
        for side in (labels, ~labels):
            weights = column[side] / column[side].sum()
            centre = weights @ points[side]
            radii += float(weights @ np.sqrt(((points[side] - centre) ** 2).sum(axis=1)))
            centres.append(centre)
        apart = float(np.sqrt(((centres[0] - centres[1]) ** 2).sum()))
        found.append(radii / apart if apart > 0 else float("inf"))
    return np.array(found)


def dunn_spread(value: float, points: Points, labels: Labels, drawn: Points) -> Spread:
    """Normal interval: a resample lacks points, so its extremes lie on one side of the value."""
    values = []
    for column in drawn.T[:_DUNN_RESAMPLES]:
        there = column > 0
        values.append(dunn(points[there], labels[there]))
    finite = [one for one in values if np.isfinite(one)]
    error = float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0
    return Spread(stderr=error, low=max(0.0, value - _Z95 * error), high=value + _Z95 * error)
