"""What needs the distance of every two points, a block of rows at a time.

All distances of 14,000 prompts would be 1.6 GB; a block of them is at most 64 MB, and each function
here takes the points and lets go of a block before it makes the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Labels = NDArray[np.bool_]

_BLOCK = 8_000_000
"""Distances at a time."""


def blocks(points: Points) -> Iterator[tuple[slice, Points]]:
    """Rows of the matrix of Euclidean distances, with their places: (rows, n)."""
    centred = points - points.mean(axis=0)  # else large common parts cancel digits
    squares = (centred**2).sum(axis=1)
    count = max(1, _BLOCK // len(points))
    for start in range(0, len(points), count):
        rows = slice(start, min(start + count, len(points)))
        distances = centred[rows] @ centred.T
        distances *= -2
        distances += squares[rows, None]
        distances += squares
        np.maximum(distances, 0.0, out=distances)
        own = np.arange(rows.start, rows.stop)
        distances[own - rows.start, own] = 0.0
        yield rows, np.sqrt(distances, out=distances)


def sums(points: Points, weights: Points) -> Points:
    """Distances of each point to all, summed with `weights` (n, columns): shape (n, columns)."""
    found = np.empty((len(points), weights.shape[1]))
    for rows, distances in blocks(points):
        found[rows] = distances @ weights
    return found


def dunn(points: Points, safe: Labels) -> float:
    """The Dunn index: least distance between the classes over the largest within one."""
    widest, nearest = 0.0, math.inf
    for rows, distances in blocks(points):
        for side in (safe, ~safe):
            part = distances[side[rows]]
            widest = max(widest, float(part[:, side].max(initial=0.0)))
            nearest = min(nearest, float(part[:, ~side].min(initial=math.inf)))
    return ratio(nearest, widest)


def silhouettes(points: Points, safe: Labels) -> Points:
    """Silhouette of each point (n,); 0 for one that is alone in its class, as in scikit-learn."""
    to_sides = sums(points, np.stack([safe, ~safe], axis=1).astype(float))
    counts = np.array([safe.sum(), (~safe).sum()])
    own = np.where(safe, 0, 1)
    every = np.arange(len(safe))
    near = to_sides[every, own] / np.maximum(counts[own] - 1, 1)
    far = to_sides[every, 1 - own] / counts[1 - own]
    largest = np.maximum(near, far)
    values = np.divide(far - near, largest, out=np.zeros_like(far), where=largest > 0)
    return np.where(counts[own] > 1, values, 0.0)


def ratio(top: float, bottom: float) -> float:
    if bottom > 0:
        return top / bottom
    return math.inf if top > 0 else 0.0
