"""Where two graders of the same answers differ, and what that does to the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import runs, store
from harness.database import warn
from harness.errors import UsageError, did_you_mean
from harness.ingest import Connection, Say
from harness.stats import PairedTest, paired_bootstrap, paired_shares
from harness.types import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One answer that two graders scored differently, and what each of them read."""

    sample_id: str
    sample_index: int
    target: str
    answer_a: str | None
    answer_b: str | None
    score_a: float | None
    score_b: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreements:
    """Two graders, as `name@version`, on the answers of one run.

    n: questions. value_a, value_b: mean score over them. delta: b minus a, paired by question,
    with its 95 % interval and p. found: the answers with different grades, in the run's order.
    """

    run_id: str
    a: str
    b: str
    n: int
    value_a: float
    value_b: float
    delta: float
    ci_low: float
    ci_high: float
    p: float
    found: tuple[Disagreement, ...]

    def to_json(self) -> JSON:
        return asdict(self)


# lm-eval grades by several metrics under one name; then the metric is a part of the name.
_GRADES = """
SELECT sample_id, sample_index, grader, score, answer, true AS first
FROM samples WHERE run_id = $run
UNION ALL
SELECT sample_id, sample_index,
    grader || '@' || version || CASE
        WHEN grader = 'lm_eval' THEN ':' || metric ELSE ''
    END,
    score, answer, false
FROM grades WHERE run_id = $run
"""
_NAMES = f"SELECT DISTINCT grader, first FROM ({_GRADES}) ORDER BY first DESC, grader"
# A judge that said nothing gave no grade: null beside a number is a difference.
_PAIRS = f"""
WITH g AS ({_GRADES})
SELECT sample_id, sample_index, s.target, a.answer, b.answer,
    CASE WHEN isnan(a.score) THEN NULL ELSE a.score END AS score_a,
    CASE WHEN isnan(b.score) THEN NULL ELSE b.score END AS score_b
FROM (SELECT * FROM samples WHERE run_id = $run) AS s
JOIN (SELECT * FROM g WHERE grader = $a) AS a USING (sample_id, sample_index)
JOIN (SELECT * FROM g WHERE grader = $b) AS b USING (sample_id, sample_index)
"""
_DIFFERENT = f"SELECT * FROM ({_PAIRS}) WHERE score_a IS DISTINCT FROM score_b ORDER BY 1, 2"
_MEANS = f"""
SELECT avg(score_a), avg(score_b) FROM ({_PAIRS})
WHERE score_a IS NOT NULL AND score_b IS NOT NULL GROUP BY sample_id ORDER BY 1, 2
"""


def disagreements(
    home: str | Path, wanted: str, between: tuple[str, str] | None = None, say: Say = warn
) -> list[Disagreements]:
    """The first grader of a run against each other one, or the two that are named.

    between: names, with a version (`math@1`) or without: the latest one.
    Raises UsageError where the run has only one grader or not the named ones.
    """
    home = Path(home)
    run_id = runs.find(home, wanted).run_id
    store.sync(home, say)
    with store.connect(home, say=say) as db:
        known = [name for name, _ in db.execute(_NAMES, {"run": run_id}).fetchall()]
        return [_compared(db, run_id, a, b) for a, b in _chosen(run_id, known, between)]


def _chosen(
    run_id: str, known: Sequence[str], between: tuple[str, str] | None
) -> list[tuple[str, str]]:
    if between:
        return [(_full(run_id, between[0], known), _full(run_id, between[1], known))]
    if len(known) < 2:
        raise UsageError(
            f"`{run_id}` has grades by {known[0] if known else 'no grader'} alone",
            f"`bench score {run_id} --grader …` adds another's",
        )
    return [(known[0], other) for other in known[1:]]


def _full(run_id: str, name: str, known: Sequence[str]) -> str:
    if name in known:
        return name
    versions = [one for one in known if name == one.rpartition("@")[0]]
    if versions:
        return max(versions, key=lambda one: int(one.rpartition("@")[2].partition(":")[0]))
    have = f"it has {', '.join(known)}; `bench score {run_id} --grader {name}` would add it"
    raise UsageError(
        f"`{run_id}` has no grades by `{name}`",
        did_you_mean(name, [one.rpartition("@")[0] for one in known], have),
    )


def _compared(db: Connection, run_id: str, a: str, b: str) -> Disagreements:
    names = {"run": run_id, "a": a, "b": b}
    found = [Disagreement(**_row(row)) for row in db.execute(_DIFFERENT, names).fetchall()]
    means: list[tuple[float, float]] = db.execute(_MEANS, names).fetchall()
    if not means:
        raise UsageError(
            f"`{a}` and `{b}` graded no common question of `{run_id}`", "name two other graders"
        )
    test = _test(means)
    n = len(means)
    return Disagreements(
        run_id=run_id,
        a=a,
        b=b,
        n=n,
        value_a=sum(one for one, _ in means) / n,
        value_b=sum(other for _, other in means) / n,
        delta=test.delta,
        ci_low=test.interval.low,
        ci_high=test.interval.high,
        p=test.p,
        found=tuple(found),
    )


def _row(row: Sequence[object]) -> JSON:
    return dict(zip(Disagreement.__slots__, row, strict=True))


def _test(means: Sequence[tuple[float, float]]) -> PairedTest:
    """Exact for right or wrong answers, by resampling for anything between."""
    if all(score in (0.0, 1.0) for pair in means for score in pair):
        won = sum(b > a for a, b in means)
        lost = sum(b < a for a, b in means)
        return paired_shares(won, lost, len(means))
    return paired_bootstrap([b - a for a, b in means])
