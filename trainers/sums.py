"""Sums of what is logged, kept on the device from one log to the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Sums:
    """Adds up scalars over micro-batches; processes speak with one another only when asked.

    A mean over tokens is then one over all tokens between two logs, not one of means.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self._held[name] = self._held[name] + value if name in self._held else value

    def take(self, accelerator: Any) -> dict[str, float]:
        """Totals over all processes since the last call, nothing where nothing was added."""
        if not self._held:
            return {}
        names = list(self._held)
        totals = accelerator.reduce(torch.stack([self._held[name] for name in names]), "sum")
        self._held = {}
        return dict(zip(names, totals.tolist(), strict=True))
