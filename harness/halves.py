"""Two halves of a benchmark: one to choose by, one to report on what was chosen.

Whoever picks the best of many models by some questions cannot say by the same questions how good
it is. Which half a question is in depends on its id alone, not on seed, order, limit or machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from harness.task import Task
from harness.types import Sample

Half = Literal["tuning", "report"]


def places(task: Task, samples: Sequence[Sample], half: Half) -> list[int]:
    """Places of the samples that are in that half, in their order.

    Every group is halved. Where the questions of a group hang together (`Task.clustered`) whole
    groups go to one half, or an answer in one would tell about the other.
    """
    groups: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(place)
    names = sorted(groups, key=lambda name: _mark(task, name))
    if task.clustered:
        dealt = [(place, turn) for turn, name in enumerate(names) for place in groups[name]]
    else:
        ordered = (
            place
            for name in names
            for place in sorted(groups[name], key=lambda place: _mark(task, samples[place].id))
        )
        dealt = [(place, turn) for turn, place in enumerate(ordered)]
    wanted = 0 if half == "tuning" else 1
    return sorted(place for place, turn in dealt if turn % 2 == wanted)


def _mark(task: Task, name: str) -> str:
    """A variant asks the same questions, so it has the same halves."""
    return hashlib.sha256(f"{task.name}/{name}".encode()).hexdigest()
