"""Start models of a process that trains more than once: read once, then copied.

A copy is whole and fresh, whatever adapters, hooks and wrappers the training before hung on its
own; what stays is one copy of the weights on the CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any


class _Kept:
    """The model that was asked for last."""

    def __init__(self) -> None:
        self.name: Hashable = None
        self.model: Any = None

    def take(self, name: Hashable, read: Callable[[], Any]) -> Any:
        if name != self.name:
            self.model = None  # or two models would be held at once
            self.model, self.name = read(), name
        return copy.deepcopy(self.model)


_kept: _Kept | None = None


def keep() -> None:
    """From now on a model is kept where it was read."""
    global _kept
    _kept = _kept or _Kept()


def copied(name: Hashable, read: Callable[[], Any]) -> Any:
    """What `read` reads, in a process that keeps models: a copy of it, read once for each name."""
    return read() if _kept is None else _kept.take(name, read)
