"""Files of activations: fixed-length records, appended batch by batch, readable when torn.

A record is the place of a text (int32) and its vectors (float32, layers after each other), all
little-endian. A torn last record is cut off before the next one is appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def record(size: int) -> np.dtype[np.void]:
    """size: numbers in the vectors of a text."""
    return np.dtype([("place", "<i4"), ("vectors", "<f4", (size,))])


def places(path: Path, size: int) -> set[int]:
    """Which texts the file has; a torn tail is cut off."""
    if not path.exists():
        return set()
    length = record(size).itemsize
    whole = path.stat().st_size // length * length
    with path.open("rb+") as file:
        file.truncate(whole)
    return set(np.fromfile(path, dtype=record(size))["place"].tolist())


def append(path: Path, rows: Sequence[int], vectors: Vectors) -> None:
    """vectors: (rows, layers, width)."""
    flat = vectors.reshape(len(rows), -1)
    records = np.empty(len(rows), dtype=record(flat.shape[1]))
    records["place"], records["vectors"] = rows, flat
    with path.open("ab") as file:
        file.write(records.tobytes())


def read(path: Path, count: int, layers: int, width: int) -> Vectors:
    """(count, layers, width), in the order of the texts. Raises ValueError where one is missing."""
    stored = np.fromfile(path, dtype=record(layers * width))
    found = np.full((count, layers, width), np.nan, dtype=np.float32)
    found[stored["place"]] = stored["vectors"].reshape(-1, layers, width)
    if len(set(stored["place"].tolist())) != count:
        raise ValueError(f"{path} lacks texts")
    return found
