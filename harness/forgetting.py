"""What a fine-tune lost: non-inferiority, the worst groups, the questions that are wrong now.

"No evidence of a change" is not "no change": here a loss over a margin is excluded, or it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from harness import store
from harness.compare import Comparison
from harness.database import warn
from harness.ingest import Connection, Say
from harness.stats import (
    Z95,
    Interval,
    loss_p,
    mean_stderr,
    normal_interval,
    paired_share_interval,
    share_loss_p,
    wilson,
)
from harness.types import JSON, to_json

MARGIN = 0.01
"""One point: a loss that most users would accept for a gain elsewhere."""
ALPHA = 0.05
FEWEST_IN_GROUP = 5
_Z90 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question as both models answered it; scores are means over the answers."""

    id: str
    group: str
    base: float
    tuned: float
    target: str
    base_answer: str | None
    tuned_answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A part of the benchmark (an MMLU subject). The interval holds for all groups at once."""

    name: str
    n: int
    base: float
    tuned: float
    delta: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """What the tuned model lost on one benchmark.

    p: one-sided, that the true loss is `margin` or more. excluded: whether such a loss is excluded.
    loss_at_most: the largest loss that is not (one-sided 95 %; below 0 it is a gain).
    right_before: questions that the base scored one half or more on; lost_share: of these, the
    share that the tuned model scores lower on, with its 95 % interval. groups: worst first.
    """

    task: str
    variant: str
    n: int
    delta: float
    margin: float
    p: float
    excluded: bool
    loss_at_most: float
    right_before: int
    lost_share: float
    lost_low: float
    lost_high: float
    groups: tuple[Group, ...]
    lost: tuple[Question, ...]

    @property
    def name(self) -> str:
        return f"{self.task}:{self.variant}" if self.variant else self.task


def forgetting(
    home: Path, found: Sequence[Comparison], margin: float = MARGIN, say: Say = warn
) -> list[Forgetting]:
    """What was lost in each comparison; margin is a share of the score's range."""
    with store.connect(home, say=say) as db:
        return [
            assess(one.task, one.variant, _questions(db, one.base_run, one.tuned_run), margin)
            for one in found
        ]


def assess(task: str, variant: str, questions: Sequence[Question], margin: float) -> Forgetting:
    """What was lost on these questions."""
    n = len(questions)
    delta, _ = mean_stderr([one.tuned - one.base for one in questions])
    p = _loss_p(questions, margin)
    lost = [one for one in questions if one.tuned < one.base]
    right = sum(one.base >= 0.5 for one in questions)
    gone = sum(one.base >= 0.5 for one in lost)
    share = wilson(gone, right) if right else Interval(low=0.0, high=1.0)
    return Forgetting(
        task=task,
        variant=variant,
        n=n,
        delta=delta,
        margin=margin,
        p=p,
        excluded=p < ALPHA,
        loss_at_most=-_interval(questions, _Z90).low,
        right_before=right,
        lost_share=gone / right if right else math.nan,
        lost_low=share.low,
        lost_high=share.high,
        groups=tuple(groups(questions)),
        lost=tuple(lost),
    )


def groups(questions: Sequence[Question]) -> list[Group]:
    """The parts with at least five questions, worst first.

    Who looks for the worst of 57 subjects finds one by chance: the intervals are Bonferroni's, so
    that with 95 % all of them hold.
    """
    parts: dict[str, list[Question]] = {}
    for one in questions:
        parts.setdefault(one.group, []).append(one)
    parts.pop("", None)
    kept = {name: some for name, some in parts.items() if len(some) >= FEWEST_IN_GROUP}
    z = NormalDist().inv_cdf(1 - ALPHA / 2 / max(1, len(kept)))
    found = [_group(name, some, z) for name, some in kept.items()]
    return sorted(found, key=lambda group: (group.delta, group.name))


def as_json(one: Forgetting) -> JSON:
    """All of it, the lost questions by id only; a share of nothing is null."""
    share = None if math.isnan(one.lost_share) else one.lost_share
    lost = [question.id for question in one.lost]
    parts = [to_json(group) for group in one.groups]
    return {**to_json(one), "lost_share": share, "lost": lost, "groups": parts}


def _group(name: str, questions: Sequence[Question], z: float) -> Group:
    interval = _interval(questions, z)
    base, _ = mean_stderr([one.base for one in questions])
    tuned, _ = mean_stderr([one.tuned for one in questions])
    return Group(
        name=name,
        n=len(questions),
        base=base,
        tuned=tuned,
        delta=tuned - base,
        ci_low=interval.low,
        ci_high=interval.high,
    )


def _counts(questions: Sequence[Question]) -> tuple[int, int] | None:
    """Questions won and lost, where all answers are right or wrong."""
    if any(score not in (0.0, 1.0) for one in questions for score in (one.base, one.tuned)):
        return None
    won = sum(one.tuned > one.base for one in questions)
    return won, sum(one.tuned < one.base for one in questions)


def _interval(questions: Sequence[Question], z: float = Z95) -> Interval:
    counts = _counts(questions)
    if counts:
        won, lost = counts
        return paired_share_interval(won, lost, len(questions), z)
    delta, stderr = mean_stderr([one.tuned - one.base for one in questions])
    return normal_interval(delta, stderr, z)


def _loss_p(questions: Sequence[Question], margin: float) -> float:
    counts = _counts(questions)
    if counts:
        won, lost = counts
        return share_loss_p(won, lost, len(questions), margin)
    return loss_p(*mean_stderr([one.tuned - one.base for one in questions]), margin)


_QUESTIONS = """
WITH answered AS (
    SELECT run_id, sample_id, any_value(group_name) AS group_name, avg(score) AS score,
        arg_min(target, sample_index) AS target, arg_min(answer, sample_index) AS answer,
    FROM samples
    WHERE run_id IN ($base, $tuned) AND score IS NOT NULL
    GROUP BY ALL
)
SELECT sample_id, coalesce(b.group_name, ''), b.score, t.score, coalesce(b.target, ''),
    b.answer, t.answer
FROM (FROM answered WHERE run_id = $base) AS b
JOIN (FROM answered WHERE run_id = $tuned) AS t USING (sample_id)
ORDER BY sample_id
"""


def _questions(db: Connection, base: str, tuned: str) -> list[Question]:
    names = ("id", "group", "base", "tuned", "target", "base_answer", "tuned_answer")
    rows = db.execute(_QUESTIONS, {"base": base, "tuned": tuned}).fetchall()
    return [Question(**dict(zip(names, row, strict=True))) for row in rows]
