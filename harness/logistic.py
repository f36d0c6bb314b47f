"""Logistic regression on a few terms by Newton's method, in plain Python.

Labels may be any share between 0 and 1. Without a penalty, so there is no answer where the labels
can be separated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = list[float]
Matrix = list[list[float]]

_STEPS = 50
_CLOSE = 1e-10
_LARGEST = 30.0
"""Weights beyond this mean a likelihood that rises for ever: labels that can be separated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """weights: one per term. covariance: of the weights, robust to labels that are no coin tosses
    (the sandwich of White 1980)."""

    weights: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    def mean_prediction(self, rows: Sequence[Sequence[float]]) -> tuple[float, float]:
        """Mean predicted chance over `rows`, and its standard error: of the rows and of the fit."""
        chances = [probability(_dot(self.weights, row)) for row in rows]
        mean = math.fsum(chances) / len(rows)
        slope = [
            math.fsum(p * (1 - p) * row[k] for p, row in zip(chances, rows, strict=True))
            / len(rows)
            for k in range(len(self.weights))
        ]
        of_fit = _dot(slope, [_dot(line, slope) for line in self.covariance])
        squares = math.fsum((p - mean) ** 2 for p in chances)
        of_rows = squares / (len(rows) - 1) / len(rows) if len(rows) > 1 else 0.0
        return mean, math.sqrt(max(0.0, of_fit) + of_rows)


def probability(logit: float) -> float:
    """The logistic function, without overflow.

    >>> probability(0.0), probability(-1000.0)
    (0.5, 0.0)
    """
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(max(logit, -700.0)) if logit > -700 else 0.0
    return power / (1 + power)


def fit(rows: Sequence[Sequence[float]], labels: Sequence[float]) -> Fitted | None:
    """The maximum of the likelihood; None where it has none, or no single one.

    >>> fitted = fit([[1.0], [1.0], [1.0], [1.0]], [1.0, 0.0, 1.0, 1.0])
    >>> round(probability(fitted.weights[0]), 9)
    0.75
    >>> fit([[1.0], [1.0]], [1.0, 1.0]) is None
    True
    """
    weights = [0.0] * len(rows[0])
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(rows, labels, weights)
        step = _solve(curvature, gradient)
        if step is None:
            return None
        # Far steps of a flat likelihood overshoot; halving them keeps Newton on the way.
        scale = min(1.0, 5.0 / max(1e-300, *map(abs, step)))
        weights = [weight + scale * change for weight, change in zip(weights, step, strict=True)]
        if max(map(abs, weights)) > _LARGEST:
            return None
        if max(map(abs, step)) < _CLOSE:
            covariance = _sandwich(rows, labels, weights)
            return Fitted(weights=tuple(weights), covariance=covariance) if covariance else None
    return None


def _derivatives(
    rows: Sequence[Sequence[float]], labels: Sequence[float], weights: Vector
) -> tuple[Vector, Matrix]:
    n = len(weights)
    gradient, curvature = [0.0] * n, [[0.0] * n for _ in range(n)]
    for row, label in zip(rows, labels, strict=True):
        chance = probability(_dot(weights, row))
        bend = chance * (1 - chance)
        for i in range(n):
            gradient[i] += (label - chance) * row[i]
            for j in range(n):
                curvature[i][j] += bend * row[i] * row[j]
    return gradient, curvature


def _sandwich(
    rows: Sequence[Sequence[float]], labels: Sequence[float], weights: Vector
) -> tuple[tuple[float, ...], ...] | None:
    n = len(weights)
    _, curvature = _derivatives(rows, labels, weights)
    units = ([float(i == k) for i in range(n)] for k in range(n))
    inverse = [_solve(curvature, unit) for unit in units]
    if any(column is None for column in inverse):
        return None
    columns = [column for column in inverse if column is not None]
    middle = [[0.0] * n for _ in range(n)]
    for row, label in zip(rows, labels, strict=True):
        miss = label - probability(_dot(weights, row))
        for i in range(n):
            for j in range(n):
                middle[i][j] += miss * miss * row[i] * row[j]
    half = [[_dot(columns[i], [line[j] for line in middle]) for j in range(n)] for i in range(n)]
    return tuple(tuple(_dot(half[i], columns[j]) for j in range(n)) for i in range(n))


def _solve(matrix: Matrix, right: Vector) -> Vector | None:
    """Gaussian elimination with pivots; None for a matrix that has no inverse."""
    n = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(rows[i][k]))
        if abs(rows[pivot][k]) < 1e-12:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(n):
            if i != k:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [rows[k][n] / rows[k][k] for k in range(n)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
