"""Directions: from activations of two checkpoints, and random ones of the same length."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
Method = Literal["mean", "svd"]


def difference(base: Values, tuned: Values, method: str = "mean") -> Values:
    """(layers, width), from activations (texts, layers, width) of the same texts.

    mean: of the differences. svd: the direction that most of them share (first right singular
    vector, not centred), as long as their mean and pointing its way.
    """
    apart = tuned.astype(float) - base.astype(float)
    mean = apart.mean(axis=0)
    if method == "mean":
        return np.asarray(mean)
    return np.stack([_leading(apart[:, layer], mean[layer]) for layer in range(len(mean))])


def _leading(apart: Values, mean: Values) -> Values:
    _, _, axes = np.linalg.svd(apart, full_matrices=False)
    sign = 1.0 if axes[0] @ mean >= 0 else -1.0
    return np.asarray(sign * axes[0] * np.linalg.norm(mean))


def cosines(base: Values, tuned: Values) -> Values:
    """Cosine between the two checkpoints' vectors of each text: (texts, layers); 0 for a zero."""
    inner = (base * tuned).sum(axis=-1)
    norms = np.linalg.norm(base, axis=-1) * np.linalg.norm(tuned, axis=-1)
    return np.asarray(np.divide(inner, norms, out=np.zeros_like(inner), where=norms > 0))


def random_like(vectors: Values, seed: int) -> Values:
    """Random directions, each as long as the vector of its layer."""
    drawn = np.random.default_rng(seed).normal(size=vectors.shape)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True) * lengths)


def digest(vectors: Values, layers: tuple[int, ...]) -> str:
    data = vectors.astype("<f4").tobytes() + repr(layers).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def save(folder: Path, vectors: Values, layers: tuple[int, ...]) -> Path:
    """A vector file named after its content, as engines read it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest(vectors, layers)}.npz"
    if not path.exists():
        buffer = io.BytesIO()
        np.savez(buffer, vectors=vectors.astype("<f4"), layers=np.array(layers))
        draft = path.with_suffix(".part")
        draft.write_bytes(buffer.getvalue())
        draft.replace(path)
    return path
