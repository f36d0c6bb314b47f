"""Is B better than A? Two models on the same questions, paired, with a test and a verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness import models, runs, store
from harness.database import warn
from harness.errors import UsageError, did_you_mean
from harness.ingest import Connection, Say
from harness.stats import (
    PairedTest,
    detectable_difference,
    detectable_share_difference,
    holm,
    mean_stderr,
    paired_bootstrap,
    paired_shares,
)
from harness.types import JSON, Run

Verdict = Literal["better", "worse", "no evidence", "too few questions"]

ALPHA = 0.05
WORTH_HAVING = 0.05
"""A difference that any user would want to know of: five points."""

_CONTRACT = (
    *("task", "variant", "metric", "n", "base", "tuned", "delta", "ci_low", "ci_high"),
    *("p", "p_holm", "both_right", "lost", "won", "both_wrong", "verdict"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one benchmark says about two runs. Differences are tuned minus base, as fractions.

    lost, won: questions on which the tuned model scores lower, higher. both_right: equal scores of
    at least one half. p_holm: p adjusted for all comparisons made at once. detectable: the true
    difference that so many questions would show four times in five.
    """

    task: str
    variant: str
    metric: str
    n: int
    base: float
    tuned: float
    delta: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    both_right: int
    lost: int
    won: int
    both_wrong: int
    verdict: Verdict
    detectable: float
    base_run: str
    tuned_run: str

    @property
    def name(self) -> str:
        return f"{self.task}:{self.variant}" if self.variant else self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A finished run, as far as choosing a partner for it goes."""

    run_id: str
    model: str
    task: str
    variant: str
    metric: str
    protocol: str
    parts: str

    @property
    def name(self) -> str:
        return f"{self.task}:{self.variant}" if self.variant else self.task


_Pair = tuple[_Asked, _Asked]


def compare(
    home: str | Path, a: str, b: str, task: str | None = None, say: Say = warn
) -> list[Comparison]:
    """B against its base A, for each task that both were asked under the same protocol.

    a, b: run ids (or a unique beginning or end of one), or model names; a model stands for its
    latest complete runs, so a limited run must be named by its id. What had to be left out is named
    to `say`.
    Raises UsageError for an unknown name, no common task, or different protocols.
    """
    home = Path(home)
    store.sync(home, say)
    with store.connect(home, say=say) as db:
        found = [_tested(db, base, tuned) for base, tuned in _pairs(db, home, a, b, task, say)]
    return _adjusted(found)


def _adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """With p values for having made all these comparisons at once, and the verdicts they allow."""
    adjusted = holm([comparison.p for comparison in found])
    return [
        replace(one, p_holm=p, verdict=verdict(one.delta, p, one.detectable))
        for one, p in zip(found, adjusted, strict=True)
    ]


def against_parents(home: str | Path, found: Sequence[Run], say: Say = warn) -> list[Comparison]:
    """Each finished run against the newest finished run of its parent under the same protocol.

    Runs whose parent has none are left out; p values are adjusted over the others.
    """
    place = Path(home)
    known = [run for run in runs.read_all(place) if run.kind == "eval" and run.status == "done"]
    of_model = {(run.model, run.protocol): run.run_id for run in known}
    pairs = [
        (base, run.run_id)
        for run in found
        if run.status == "done"
        and "embedding" not in run.protocol_parts  # which has no grade for a single prompt
        and (base := of_model.get((run.parent or "", run.protocol)))
    ]
    return of_pairs(home, pairs, say)


def of_pairs(
    home: str | Path, pairs: Sequence[tuple[str, str]], say: Say = warn
) -> list[Comparison]:
    """Each pair of run ids (base, tuned) compared, as one family of tests."""
    return _adjusted([one for base, tuned in pairs for one in compare(home, base, tuned, say=say)])


def as_json(comparison: Comparison) -> JSON:
    """The object that `bench compare --json` prints for it."""
    return {name: getattr(comparison, name) for name in _CONTRACT}


def verdict(delta: float, p_holm: float, detectable: float) -> Verdict:
    """What the numbers allow to be said.

    Significant after adjustment: `better` or `worse`. Otherwise `too few questions` where even a
    true difference of five points would usually have been missed, else `no evidence`.
    """
    if p_holm < ALPHA:
        return "better" if delta > 0 else "worse"
    return "too few questions" if detectable > WORTH_HAVING else "no evidence"


def sentence(one: Comparison, family: int = 1) -> str:
    """The verdict in plain words; `family` is how many comparisons were made at once."""
    moved = "rose" if one.delta > 0 else "fell" if one.delta < 0 else "stayed"
    by = f" by {abs(one.delta) * 100:.1f} points" if one.delta else " the same"
    interval = f"95 % interval {one.ci_low * 100:+.1f} to {one.ci_high * 100:+.1f}"
    what = f"{one.name} {moved}{by} ({interval}) over {one.n} questions"
    p = _p(one.p)
    if one.verdict in ("better", "worse"):
        among = f", {_p(one.p_holm)} among {family} comparisons" if family > 1 else ""
        return f"{what}: {one.verdict}, hardly by chance ({p}{among})."
    if one.verdict == "too few questions":
        least = f"{one.detectable * 100:.0f}"
        return f"{what}: too few to tell, they would show a difference of {least} points or more."
    if one.p < ALPHA:
        return f"{what}: no evidence, {p} alone but {_p(one.p_holm)} among {family} comparisons."
    return f"{what}: no evidence of a change ({p})."


def _p(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


def _pairs(db: Connection, home: Path, a: str, b: str, task: str | None, say: Say) -> list[_Pair]:
    base, tuned = _named(db, home, a), _named(db, home, b)
    if len(base) == len(tuned) == 1 and base[0].run_id == tuned[0].run_id:
        raise UsageError(f"`{a}` and `{b}` are the same run", "name two runs or two models")
    _require_known(task, [*base, *tuned])
    base_runs, tuned_runs = _of_task(base, task), _of_task(tuned, task)
    found: list[_Pair] = []
    apart: list[_Pair] = []
    for name in dict.fromkeys(run.name for run in [*base_runs, *tuned_runs]):
        ours = [run for run in base_runs if run.name == name]
        theirs = [run for run in tuned_runs if run.name == name]
        pair = _same_protocol(ours, theirs)
        if pair:
            found.append(pair)
        elif ours and theirs:
            apart.append((ours[0], theirs[0]))
        else:
            say(f"left out `{name}`: only `{a if ours else b}` has a complete run of it")
    if not found:
        raise _incomparable(a, b, task, apart)
    for ours_, theirs_ in apart:
        say(f"left out `{ours_.name}`: the protocols differ in {_difference(ours_, theirs_)}")
    return found


def _same_protocol(base: Sequence[_Asked], tuned: Sequence[_Asked]) -> _Pair | None:
    """The newest run of the tuned model that has a partner, with its newest partner."""
    for theirs in tuned:
        for ours in base:
            if ours.protocol == theirs.protocol != "":
                return ours, theirs
    return None


def _incomparable(a: str, b: str, task: str | None, apart: Sequence[_Pair]) -> UsageError:
    if apart:
        base, tuned = apart[0]
        return UsageError(
            f"`{a}` and `{b}` ran `{base.name}` under different protocols: "
            f"{_difference(base, tuned)}",
            "evaluate both with the same options",
        )
    what = f"of `{task}`" if task else "of a common task"
    return UsageError(
        f"`{a}` and `{b}` do not both have a complete run {what}",
        f"run `bench eval --model {a},{b} --tasks {task or 'arithmetic'}`, or name two run ids",
    )


def _difference(base: _Asked, tuned: _Asked) -> str:
    """The settings in which two protocols differ, with both values; where none does, the hashes."""
    ours, theirs = (json.loads(run.parts or "{}") for run in (base, tuned))
    if isinstance(ours.get("sampling"), dict) and isinstance(theirs.get("sampling"), dict):
        ours, theirs = ({**parts, **parts["sampling"], "sampling": 0} for parts in (ours, theirs))
    names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
    settings = [n for n in names if n not in ("prompts", "answers")]
    differing = [
        f"{n} {_plain(ours.get(n))} and {_plain(theirs.get(n))}" for n in settings or names
    ]
    return ", ".join(differing) or "unknown parts"


def _plain(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


_RUNS = """
SELECT run_id, model, task, variant, primary_metric AS metric, protocol,
    CAST(protocol_parts AS VARCHAR) AS parts, status,
    status = 'done' AND limit_n IS NULL
        AND NOT list_contains(coalesce(flags, []), 'offline_sample') AS complete
FROM runs
WHERE kind IN ('eval', 'import')
ORDER BY coalesce(finished_at, started_at) DESC, run_id DESC
"""


def _named(db: Connection, home: Path, name: str) -> list[_Asked]:
    """The run of that id, or the complete runs of that model, newest first."""
    cursor = db.execute(_RUNS)
    columns = [column[0] for column in cursor.description or ()]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    exact = [row for row in rows if row["run_id"] == name]
    of_model = [row for row in rows if row["model"] == name]
    if not exact and not of_model:
        exact = [
            row for row in rows if row["run_id"].startswith(name) or row["run_id"].endswith(name)
        ]
        exact = exact if name else []
    if len(exact) > 1:
        raise UsageError(f"`{name}` fits {len(exact)} runs", f"for example `{exact[0]['run_id']}`")
    if exact:
        return [_finished(exact[0])]
    if not of_model:
        return _named_in_registry(db, home, name, rows)
    complete = [_asked(row) for row in of_model if row["complete"]]
    if complete:
        return complete
    raise UsageError(
        f"`{name}` has no complete run: {len(of_model)} limited, unfinished or offline one(s)",
        f"name one by its id, for example `{of_model[0]['run_id']}`, or evaluate without `--limit`",
    )


def _finished(row: JSON) -> _Asked:
    if row["status"] == "done":
        return _asked(row)
    raise UsageError(
        f"`{row['run_id']}` is {row['status']}, so its scores are not all there",
        f"finish it with `bench runs resume {row['run_id']}`",
    )


def _asked(row: JSON) -> _Asked:
    return _Asked(**{name: row[name] or "" for name in _Asked.__slots__})


def _named_in_registry(db: Connection, home: Path, name: str, rows: Sequence[JSON]) -> list[_Asked]:
    """A pair's bare name means one of its members; anything else is unknown."""
    known = dict.fromkeys(row["model"] for row in rows)
    near = did_you_mean(name, [*known, *(row["run_id"] for row in rows)])
    try:
        full = models.model(name, home).name
    except UsageError as error:
        full, near = name, near or error.hint
    if full != name and full in known:
        return _named(db, home, full)
    raise UsageError(
        f"no run or evaluated model is called `{name}`",
        near
        or f"run `bench eval --model {name} --tasks …` first; `bench runs list` shows all runs",
    )


def _of_task(found: Sequence[_Asked], task: str | None) -> list[_Asked]:
    """Those of one task (all its variants) or of one variant (`task:variant`)."""
    if task is None:
        return list(found)
    return [run for run in found if task in (run.task, run.name)]


def _require_known(task: str | None, found: Sequence[_Asked]) -> None:
    known = {name: None for run in found for name in (run.task, run.name)}
    if task is not None and task not in known:
        otherwise = f"they have: {', '.join(known)}"
        raise UsageError(f"no run of task `{task}`", did_you_mean(task, known, otherwise))


_SCORES = """
WITH scored AS (SELECT run_id, sample_id, score FROM samples WHERE score IS NOT NULL),
    base AS (SELECT sample_id, avg(score) AS score FROM scored WHERE run_id = ? GROUP BY ALL),
    tuned AS (SELECT sample_id, avg(score) AS score FROM scored WHERE run_id = ? GROUP BY ALL)
SELECT base.score, tuned.score, count(*)
FROM base JOIN tuned USING (sample_id)
GROUP BY ALL
ORDER BY ALL
"""


def _tested(db: Connection, base: _Asked, tuned: _Asked) -> Comparison:
    counts: list[tuple[float, float, int]] = db.execute(
        _SCORES, [base.run_id, tuned.run_id]
    ).fetchall()
    n = sum(count for _, _, count in counts)
    if n == 0:
        raise UsageError(
            f"`{base.run_id}` and `{tuned.run_id}` share no scored question",
            "`bench runs show` tells what they asked",
        )
    won = sum(count for ours, theirs, count in counts if theirs > ours)
    lost = sum(count for ours, theirs, count in counts if theirs < ours)
    both_right = sum(count for ours, theirs, count in counts if ours == theirs >= 0.5)
    test, detectable = _test(counts, won, lost, n)
    return Comparison(
        task=base.task,
        variant=base.variant,
        metric=base.metric,
        n=n,
        base=sum(ours * count for ours, _, count in counts) / n,
        tuned=sum(theirs * count for _, theirs, count in counts) / n,
        delta=test.delta,
        ci_low=test.interval.low,
        ci_high=test.interval.high,
        p=test.p,
        p_holm=test.p,
        both_right=both_right,
        lost=lost,
        won=won,
        both_wrong=n - won - lost - both_right,
        verdict="no evidence",
        detectable=detectable,
        base_run=base.run_id,
        tuned_run=tuned.run_id,
    )


def _test(
    counts: Sequence[tuple[float, float, int]], won: int, lost: int, n: int
) -> tuple[PairedTest, float]:
    """Exact for right or wrong answers, by resampling for anything between."""
    if all(score in (0.0, 1.0) for ours, theirs, _ in counts for score in (ours, theirs)):
        return paired_shares(won, lost, n), detectable_share_difference(won, lost, n)
    differences = [theirs - ours for ours, theirs, count in counts for _ in range(count)]
    _, stderr = mean_stderr(differences)
    return paired_bootstrap(differences), detectable_difference(stderr, n)
