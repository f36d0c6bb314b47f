"""Reductions of activations to fewer dimensions; those that can be fitted once and reused are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from harness.errors import UsageError, did_you_mean
from harness.geometry.distances import Points

Method = Literal["none", "pca", "tsne", "umap"]
METHODS: tuple[str, ...] = get_args(Method)
COMPONENTS = 50
_SEED = 42

Reduce = Callable[[Points], Points]


def reduction(method: str, reference: Points) -> Reduce:
    """What maps activations (n, width) to fewer dimensions, fitted on `reference` where it can be.

    `pca`: to 50. `umap`: to 3. `tsne`: to 3, as published; it has no map to reuse and places each
    set of points anew, so that two of them are not on one scale.
    """
    if method == "none":
        return lambda points: points
    if method == "pca":
        return _pca(reference)
    if method == "tsne":
        return tsne
    if method == "umap":
        return _umap(reference)
    raise UsageError(
        f"unknown reduction `{method}`", did_you_mean(method, METHODS, ", ".join(METHODS))
    )


def is_fixed(method: str) -> bool:
    """Whether one fit serves all points of a sweep."""
    return method != "tsne"


def _pca(reference: Points) -> Reduce:
    mean = reference.mean(axis=0)
    most = min(COMPONENTS, *reference.shape)
    _, _, axes = np.linalg.svd(reference - mean, full_matrices=False)
    kept = axes[:most].T
    return lambda points: (points - mean) @ kept


def tsne(points: Points) -> Points:
    """(n, 3) with the published settings (sklearn, 500 steps)."""
    from sklearn.manifold import TSNE

    n = len(points)
    perplexity = min(30, max(5, n - 2)) if n <= 1000 else 50
    fitted = TSNE(
        n_components=3,
        random_state=_SEED,
        perplexity=min(perplexity, n - 1),
        max_iter=500,
        init="pca",
        learning_rate="auto",
    )
    return np.asarray(fitted.fit_transform(points.astype(np.float32)), dtype=float)


def _umap(reference: Points) -> Reduce:
    import umap

    fitted = umap.UMAP(
        n_components=3, n_neighbors=15, min_dist=0.1, metric="cosine", random_state=_SEED
    ).fit(reference)
    return lambda points: np.asarray(fitted.transform(points), dtype=float)
