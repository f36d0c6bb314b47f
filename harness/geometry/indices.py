"""Cluster indices of two labelled classes, in squared Euclidean distance with hard labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Labels = NDArray[np.bool_]

_COINCIDE = 1e-12
"""Squared distance of two centroids below which they are one, as in the published code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indices:
    """within, between: sums of squares around the centroids and of them. chi: Calinski-Harabasz.
    xb: Xie-Beni, infinite where the centroids coincide. dunn: least distance between the classes
    over the largest within one."""

    n_safe: int
    n_unsafe: int
    within: float
    between: float
    chi: float
    xb: float
    davies_bouldin: float
    dunn: float
    silhouette: float

    @property
    def separation(self) -> float:
        """1 / XB: squared distance of the centroids over the mean squared distance to one's own.

        For two classes XB * CHI = (n - 2) * n0 * n1 / n^2, so Xie-Beni and Calinski-Harabasz are
        one number; unlike CHI this form of it does not grow with n.
        """
        return 0.0 if math.isinf(self.xb) else _ratio(1.0, self.xb)


def indices(points: Points, safe: Labels) -> Indices:
    """points: (n, dimensions). safe: (n,). Raises ValueError where a class has no point."""
    sides = points[safe], points[~safe]
    if not all(len(side) for side in sides):
        raise ValueError("both classes need a point")
    centres = [side.mean(axis=0) for side in sides]
    spread = [float(((side - c) ** 2).sum()) for side, c in zip(sides, centres, strict=True)]
    within, n = sum(spread), len(points)
    apart = float(((centres[0] - centres[1]) ** 2).sum())
    between = apart * len(sides[0]) * len(sides[1]) / n
    distances = pairwise(points)
    return Indices(
        n_safe=len(sides[0]),
        n_unsafe=len(sides[1]),
        within=within,
        between=between,
        chi=_ratio(between * (n - 2), within),
        xb=math.inf if apart <= _COINCIDE else within / (n * apart),
        davies_bouldin=_davies_bouldin(sides, centres, math.sqrt(apart)),
        dunn=dunn(distances, safe),
        silhouette=float(silhouettes(distances, safe).mean()),
    )


def pairwise(points: Points) -> Points:
    """Euclidean distances (n, n)."""
    centred = points - points.mean(axis=0)  # else large common parts cancel digits
    squares = (centred**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * centred @ centred.T
    np.maximum(distances, 0.0, out=distances)
    np.fill_diagonal(distances, 0.0)
    result: Points = np.sqrt(distances, out=distances)
    return result


def dunn(distances: Points, safe: Labels) -> float:
    """The Dunn index from distances (n, n)."""
    widest = max(distances[np.ix_(side, side)].max() for side in (safe, ~safe))
    return _ratio(float(distances[np.ix_(safe, ~safe)].min()), float(widest))


def silhouettes(distances: Points, safe: Labels) -> Points:
    """Silhouette of each point (n,); 0 for one that is alone in its class, as in scikit-learn."""
    sums = np.stack([distances[:, side].sum(axis=1) for side in (safe, ~safe)])
    counts = np.array([safe.sum(), (~safe).sum()])
    own = np.where(safe, 0, 1)
    every = np.arange(len(safe))
    near = sums[own, every] / np.maximum(counts[own] - 1, 1)
    far = sums[1 - own, every] / counts[1 - own]
    largest = np.maximum(near, far)
    values = np.divide(far - near, largest, out=np.zeros_like(far), where=largest > 0)
    return np.where(counts[own] > 1, values, 0.0)


def _davies_bouldin(sides: tuple[Points, Points], centres: list[Points], apart: float) -> float:
    radii = [
        float(np.sqrt(((side - centre) ** 2).sum(axis=1)).mean())
        for side, centre in zip(sides, centres, strict=True)
    ]
    return _ratio(sum(radii), apart)


def _ratio(top: float, bottom: float) -> float:
    if bottom > 0:
        return top / bottom
    return math.inf if top > 0 else 0.0
