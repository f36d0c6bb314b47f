"""When a trial has stopped getting better."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Progress:
    """The evaluations of one trial. patience: so many in a row without an improvement by more than
    min_delta, and the trial has had enough; None never has. best, best_step: the best value so far,
    by however little, and where it was."""

    lower_is_better: bool
    patience: int | None = None
    min_delta: float = 0.0
    best: float | None = None
    best_step: int = 0
    last_step: int = 0
    _mark: float = field(default=math.inf)
    _since: int = 0

    def add(self, step: int, value: float) -> bool:
        """Whether this one is the best so far."""
        self.last_step = step
        signed = value if self.lower_is_better else -value
        if signed < self._mark - self.min_delta:
            self._mark, self._since = signed, 0
        else:
            self._since += 1
        before = self.best if self.best is None or self.lower_is_better else -self.best
        better = not math.isnan(value) and (before is None or signed < before)
        if better:
            self.best, self.best_step = value, step
        return better

    @property
    def enough(self) -> bool:
        return self.patience is not None and self._since >= self.patience
