"""Cluster indices of two labelled classes, in squared Euclidean distance with hard labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.geometry.distances import Labels, Points, dunn, ratio, silhouettes

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
        return 0.0 if math.isinf(self.xb) else ratio(1.0, self.xb)


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
    return Indices(
        n_safe=len(sides[0]),
        n_unsafe=len(sides[1]),
        within=within,
        between=between,
        chi=ratio(between * (n - 2), within),
        xb=math.inf if apart <= _COINCIDE else within / (n * apart),
        davies_bouldin=_davies_bouldin(sides, centres, math.sqrt(apart)),
        dunn=dunn(points, safe),
        silhouette=float(silhouettes(points, safe).mean()),
    )


def _davies_bouldin(sides: tuple[Points, Points], centres: list[Points], apart: float) -> float:
    radii = [
        float(np.sqrt(((side - centre) ** 2).sum(axis=1)).mean())
        for side, centre in zip(sides, centres, strict=True)
    ]
    return ratio(sum(radii), apart)
