"""The section `search` of a recipe: what `bench tune` varies, and by what it chooses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_FORBID = ConfigDict(extra="forbid", frozen=True)

LOSS = "loss"
"""The objective that is measured on training data which were held out, not on a task."""


class Range(BaseModel):
    """From `low` to `high`, both included. log: as many tries below a factor as above it. step:
    between the values; a field that is a whole number has whole values without it."""

    model_config = _FORBID

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None


class Choices(BaseModel):
    model_config = _FORBID

    choices: tuple[Any, ...]


class Search(BaseModel):
    """space: field of the recipe by dotted path → its values. objective: `loss`, of `held_out`
    examples (a share below 1, or their number), or one of the recipe's tasks, scored on at most
    `questions` of its tuning half. evaluations: of each trial, evenly spread, the last at its end.
    pruner: `asha` and `hyperband` end a trial that is not among the best 1/`reduction_factor` after
    `min_resource`, then `reduction_factor` times as many evaluations. patience: evaluations without
    an improvement by more than `min_delta` after which a trial ends."""

    model_config = _FORBID

    space: dict[str, Range | Choices]
    objective: str = LOSS
    trials: int = 20
    evaluations: int = 9
    sampler: Literal["tpe", "random", "gp", "nsgaii", "qmc"] = "tpe"
    pruner: Literal["asha", "hyperband", "none"] = "asha"
    min_resource: int = 1
    reduction_factor: int = 3
    patience: int | None = None
    min_delta: float = 0.0
    questions: int | None = None
    held_out: int | float = 0.1
    seed: int = 42

    @property
    def lower_is_better(self) -> bool:
        return self.objective == LOSS
