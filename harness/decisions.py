"""Decisions between the rungs of a ladder, with the evidence that they rest on.

decisions.json lies in the folder of the ladder's run, one object for each rung that was climbed;
the history has them in the table `decisions` and the view `ladders`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness import runs
from harness.ingest import DECISIONS
from harness.types import JSON, to_json

Word = Literal["escalate", "stop", "wait", "declined", "top"]
"""escalate: the next rung is climbed. stop: the criterion does not hold. wait: it holds, and nobody
has agreed to the cost of the next rung yet. declined: somebody said no. top: it holds, and this is
the last rung."""

By = Literal["criterion", "--yes", "asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One rung that was climbed. evidence: the value of each term of the criterion. hours, usd:
    expected of this rung. next_rung, next_hours, next_usd: what was decided on. run_ids: of its
    evaluations, trainings and sweeps."""

    rung: int
    name: str
    criterion: str
    holds: bool
    evidence: JSON
    decision: Word
    decided_by: By
    decided_at: str
    hours: float | None = None
    usd: float | None = None
    next_rung: str = ""
    next_hours: float | None = None
    next_usd: float | None = None
    run_ids: tuple[str, ...] = ()


def read(folder: Path) -> list[Decision]:
    try:
        rows = json.loads((folder / DECISIONS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [Decision(**{**row, "run_ids": tuple(row.get("run_ids", ()))}) for row in rows]


def write(folder: Path, found: Sequence[Decision]) -> None:
    text = json.dumps([as_json(one) for one in found], indent=2, ensure_ascii=False)
    runs.write_atomically(folder / DECISIONS, text + "\n")


def as_json(one: Decision) -> JSON:
    return {**dict.fromkeys(type(one).__slots__), **to_json(one), "run_ids": list(one.run_ids)}


def agreed(earlier: Sequence[Decision], one: Decision) -> Decision | None:
    """The same decision as it was taken before on the same evidence: nobody is asked twice."""
    for other in earlier:
        same = (other.name, other.criterion, other.next_rung) == (
            one.name,
            one.criterion,
            one.next_rung,
        )
        if same and other.decision == "escalate" and other.evidence == one.evidence:
            return replace(other, run_ids=one.run_ids)
    return None
