"""Whether a training that ended well also trained."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from harness.trainer import OUTCOME, Trainer
from harness.training_process import StepReader
from harness.types import JSON

ENOUGH_STEPS = 50
"""Fewer logged steps are too few to tell a loss that stands from one that moves little."""

MOST_SKIPPED = 0.5


def not_trained(folder: Path, trainer: Trainer) -> tuple[str, ...]:
    """The flag `not_trained` with its reason, none where the model learnt something."""
    reason = _reason(folder, trainer)
    return (f"not_trained={reason}",) if reason else ()


def _reason(folder: Path, trainer: Trainer) -> str:
    path = folder / OUTCOME
    told: JSON = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if told.get("weights_changed") is False:
        return "weights_unchanged"
    steps = StepReader(folder).new()
    skipped = max((step.get("skipped_steps", 0.0) for step in steps), default=0.0)
    if steps and skipped > MOST_SKIPPED * steps[-1]["step"]:
        return "steps_skipped"
    name, _ = trainer.objective
    values = [step[name] for step in steps if name in step]
    return "" if moved(values) else f"{name.replace('/', '_')}_not_moved"


def moved(values: Sequence[float]) -> bool:
    """Whether a measure changed: at all, and over many steps by more than its noise.

    Over `ENOUGH_STEPS` and more the mean of the last fifth has to differ from that of the first by
    more than twice the standard error of the difference.
    """
    if len(values) < 2:
        return True
    if max(values) - min(values) <= 1e-6 * max(1e-12, abs(values[0])):
        return False
    if len(values) < ENOUGH_STEPS:
        return True
    fifth = len(values) // 5
    first, last = values[:fifth], values[-fifth:]
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / fifth)
    return abs(statistics.fmean(last) - statistics.fmean(first)) > 2 * noise
