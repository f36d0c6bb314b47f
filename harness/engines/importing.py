"""Imports of whole libraries, without looking for garbage among what they make."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def kept_for_good() -> Iterator[None]:
    """What is imported inside lives as long as the process, and is never searched for garbage:
    that takes a good part of the time in which torch, transformers and vLLM are imported, and again
    whenever vLLM collects while it starts."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
