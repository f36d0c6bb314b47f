"""How many questions a comparison needs: with what the history tells about the models at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import models, sample_size, store
from harness.database import warn
from harness.errors import DataError, UsageError, did_you_mean
from harness.ingest import Connection, Say
from harness.lm_eval_task import is_lm_eval
from harness.questions import questions
from harness.task import Task
from harness.types import JSON, to_json

USUAL_SHARE = 0.5
USUAL_CORRELATION = 0.7
"""Between the scores of a model and its fine-tune on the same questions, where nothing is known."""
USUAL_SAMPLING_PART = 0.5
"""Of the variance of a difference, where no question was answered several times."""
FEWEST_COMMON = 30
"""Questions that two runs must share before their correlation is believed."""
ANSWERS = (1, 4, 16, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What is to be found: a true difference `delta` (a share) with chance `power`, at the
    two-sided level `alpha` over `family` comparisons at once (Holm's first step)."""

    delta: float
    power: float = 0.8
    alpha: float = 0.05
    family: int = 1

    @property
    def level(self) -> float:
        return self.alpha / self.family


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What is known about one question's difference between two models.

    changed: share of questions on which they differed. variance: of the difference, by which is
    planned: a pair far apart differs on many questions for that reason alone. graded: whether
    scores lie between right and wrong. sampling_part: the share of `variance` that more answers
    per question would shrink, by their number. source, sampling_source: from where, in words.
    """

    share: float
    correlation: float
    changed: float
    variance: float
    graded: bool
    sampling_part: float
    source: str
    sampling_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The same with several answers to each question: questions needed, answers in all, and the
    smallest difference that the questions there are can show."""

    samples: int
    needed: int | None
    answers: int | None
    detectable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one benchmark needs and can. n is None where the number of questions is not known.

    needed_unpaired, detectable_unpaired: if the two models had answered different questions.
    power: the chance to find the difference with the n questions there are.
    """

    task: str
    delta: float
    n: int | None
    n_source: str
    basis: Basis
    needed: int | None
    needed_unpaired: int | None
    power: float | None
    detectable: float | None
    detectable_unpaired: float | None
    repeated: tuple[Repeated, ...]


def plan(
    home: Path,
    tasks: Sequence[Task],
    aim: Aim,
    against: str | None = None,
    *,
    data_root: Path | None = None,
    say: Say = warn,
) -> list[Plan]:
    """A plan for each task. against: the model that the tuned one will be compared with.

    Raises UsageError for an aim that makes no sense and for an unknown model.
    """
    _check(aim)
    store.sync(home, say)
    with store.connect(home, say=say) as db:
        base = _model(db, home, against) if against else None
        return [_planned(db, task, aim, base, data_root) for task in tasks]


def as_json(one: Plan) -> JSON:
    empty = dict.fromkeys(Plan.__slots__)
    return {**empty, **to_json(one)}


def sentence(one: Plan, aim: Aim) -> str:
    """The plan in plain words."""
    points = f"{aim.delta * 100:g} points"
    needs = f"{one.task}: {points} need {_count(one.needed)} questions"
    if one.n is None:
        return f"{needs} ({one.n_source})."
    if one.detectable is None:
        return f"{needs}; its {one.n:,} are too few to show any difference."
    shows = f"{one.detectable * 100:.1f} points or more"
    if one.needed is not None and one.needed <= one.n:
        return f"{needs}; its {one.n:,} are enough and show {shows}."
    chance = f"{points} would be found with chance {one.power or 0:.2f}"
    return f"{needs}; its {one.n:,} can show {shows} only ({chance})."


def advice(one: Plan) -> str:
    """Whether more answers to each question help, or only more questions; '' where neither can
    be said."""
    if not one.repeated or one.n is None:
        return ""
    first, many = one.repeated[0], one.repeated[-1]
    if first.detectable is None or many.detectable is None:
        return ""
    return (
        f"{one.task}: {many.samples} answers to each question (at a temperature above 0) would "
        f"bring {first.detectable * 100:.1f} points down to {many.detectable * 100:.1f}, further "
        f"only more questions do: {one.basis.sampling_source}."
    )


def _count(n: int | None) -> str:
    return "more than a hundred million" if n is None else f"{n:,}"


def _check(aim: Aim) -> None:
    if not 0 < aim.delta <= 1:
        raise UsageError(
            f"a difference of `{aim.delta * 100:g}` points cannot be planned for",
            "give --delta in points, above 0 and up to 100, for example `--delta 2`",
        )
    if not 0.05 <= aim.power < 1:
        raise UsageError(f"`--power {aim.power:g}` is no chance to plan with", "for example 0.8")
    if not 0 < aim.alpha <= 0.5:
        raise UsageError(f"`--alpha {aim.alpha:g}` is no level of a test", "for example 0.05")
    if aim.family < 1:
        raise UsageError(f"`--family {aim.family}` leaves no comparison", "use 1 or more")


def _planned(
    db: Connection, task: Task, aim: Aim, against: str | None, data_root: Path | None
) -> Plan:
    n, n_source = _questions(db, task, data_root)
    basis = _basis(db, task, against)
    variance = basis.variance
    apart = 2 * basis.share * (1 - basis.share)
    if basis.graded:
        needed = sample_size.normal_needed(variance, aim.delta, aim.power, aim.level)
        power = n and sample_size.normal_power(n, variance, aim.delta, aim.level)
        shown = n and sample_size.normal_difference(n, variance, aim.power, aim.level)
    else:
        needed = sample_size.questions_needed(variance, aim.delta, aim.power, aim.level)
        power = n and sample_size.mcnemar_power(n, variance, aim.delta, aim.level)
        shown = n and sample_size.smallest_difference(n, variance, aim.power, aim.level)
    return Plan(
        task=task.id,
        delta=aim.delta,
        n=n,
        n_source=n_source,
        basis=basis,
        needed=needed,
        needed_unpaired=sample_size.normal_needed(apart, aim.delta, aim.power, aim.level),
        power=power,
        detectable=shown,
        detectable_unpaired=n and sample_size.normal_difference(n, apart, aim.power, aim.level),
        repeated=tuple(_repeated(task, basis, aim, n)),
    )


def _repeated(task: Task, basis: Basis, aim: Aim, n: int | None) -> list[Repeated]:
    """Only where the model writes: a choice is the same however often it is asked."""
    if task.kind != "generate":
        return []
    found = []
    for samples in ANSWERS:
        left = 1 - basis.sampling_part * (1 - 1 / samples)
        variance = basis.variance * left
        needed = sample_size.normal_needed(variance, aim.delta, aim.power, aim.level)
        shown = n and sample_size.normal_difference(n, variance, aim.power, aim.level)
        answers = needed and needed * samples
        found.append(Repeated(samples=samples, needed=needed, answers=answers, detectable=shown))
    return found


_COMPLETE = """
SELECT max(n_samples) FROM runs
WHERE task = ? AND variant = ? AND status = 'done' AND limit_n IS NULL
    AND kind IN ('eval', 'import') AND NOT list_contains(coalesce(flags, []), 'offline_sample')
"""


def _questions(db: Connection, task: Task, data_root: Path | None) -> tuple[int | None, str]:
    """How many questions the benchmark has, and where that is known from."""
    row = db.execute(_COMPLETE, [task.name, task.variant]).fetchone()
    if row and row[0]:
        return int(row[0]), "a complete run in the history"
    if is_lm_eval(task):
        return None, "how many it has is not known before a complete run of it"
    try:
        asked = questions(task, data_root=data_root, shots=0)
    except DataError as error:
        return None, f"how many it has is not known: {error.message}"
    return len(asked.samples), f"the dataset ({asked.source})"


_PAIRS = """
WITH asked AS (
    SELECT run_id, model, parent, protocol, json_extract_string(sampling, 'temperature') AS warm
    FROM runs
    WHERE task = ? AND variant = ? AND status = 'done' AND kind IN ('eval', 'import')
        AND protocol <> ''
    QUALIFY row_number() OVER (
        PARTITION BY model, protocol ORDER BY coalesce(finished_at, started_at) DESC, run_id DESC
    ) = 1
),
question AS (
    SELECT run_id, model, parent, protocol, warm, sample_id, avg(score) AS score, count(*) AS k
    FROM samples JOIN asked USING (run_id)
    WHERE score IS NOT NULL
    GROUP BY ALL
)
SELECT
    a.model AS one, b.model AS other,
    a.parent IS NOT DISTINCT FROM b.model OR b.parent IS NOT DISTINCT FROM a.model AS related,
    count(*) AS n, avg(a.score) AS share, avg(b.score) AS other_share,
    avg((a.score <> b.score)::INT) AS changed,
    coalesce(corr(a.score, b.score), 0) AS correlation,
    var_samp(b.score - a.score) AS variance,
    bool_or(a.score NOT IN (0, 1) OR b.score NOT IN (0, 1)) AS graded,
    avg(a.k) AS answers, any_value(coalesce(TRY_CAST(a.warm AS DOUBLE), 0)) AS temperature
FROM question AS a
JOIN question AS b USING (protocol, sample_id)
WHERE a.model < b.model
GROUP BY a.run_id, b.run_id, a.model, b.model, a.parent, b.parent
HAVING count(*) >= ?
ORDER BY ALL
"""


def _basis(db: Connection, task: Task, against: str | None) -> Basis:
    """What the history tells: of `against` with its relatives, of `against` with others, of any
    relatives, of any two models; the first of these that there is."""
    found = _rows(db, _PAIRS, [task.name, task.variant, FEWEST_COMMON])
    ours = [row for row in found if against in (row["one"], row["other"])]
    for pairs, with_whom in ((ours, f"`{against}` and "), (found, "")):
        related = [row for row in pairs if row["related"]]
        if related:
            return _seen(db, task, related, against, f"{with_whom}its parent or fine-tunes")
        if pairs:
            return _seen(db, task, pairs, against, f"{with_whom}other models")
    return _assumed(db, task, against)


def _seen(
    db: Connection, task: Task, pairs: Sequence[JSON], against: str | None, whose: str
) -> Basis:
    """The mean over pairs of runs; a pair whose scores are all equal still counts."""
    count = len(pairs)

    def mean(name: str) -> float:
        return float(sum(row[name] for row in pairs) / count)

    share = mean("other_share" if all(row["other"] == against for row in pairs) else "share")
    variance = mean("variance")
    within = _within(db, task, against)
    warm = [row for row in pairs if row["temperature"] > 0]
    whose = whose if whose.startswith("`") else whose.replace("its parent or", "models and their")
    # What more answers shrink was divided already by those that these runs took.
    taken = sum(1 / row["answers"] for row in warm) / count
    single, part, source = _parts(variance, within, taken, known_cold=not warm)
    return Basis(
        share=share,
        correlation=mean("correlation"),
        changed=mean("changed"),
        variance=single,
        graded=any(row["graded"] for row in pairs),
        sampling_part=part,
        source=f"{count} pair(s) of runs of {whose} in the history",
        sampling_source=source,
    )


def _parts(
    variance: float, within: float | None, taken: float, *, known_cold: bool
) -> tuple[float, float, str]:
    """Variance of a difference with one answer to each question, the share of it that is
    sampling, and where that share is from."""
    if within is None:
        source = "half of the variance is taken to be sampling, nothing in the history tells"
        return variance, USUAL_SAMPLING_PART, source
    sampling = 2 * within
    question = max(0.0, variance - sampling * taken)
    whole = question + sampling
    greedy = ", the pairs answered greedily" if known_cold else ""
    source = f"sampling is as in runs with several answers{greedy}"
    return whole, sampling / whole if whole else 0.0, source


def _assumed(db: Connection, task: Task, against: str | None) -> Basis:
    share = _share(db, task, against) if against else None
    what = f"the score of `{against}`" if share is not None else "half of the answers right"
    share = USUAL_SHARE if share is None else share
    changed = sample_size.changed_share(share, USUAL_CORRELATION)
    variance, part, sampling = _parts(changed, _within(db, task, against), 1.0, known_cold=False)
    return Basis(
        share=share,
        correlation=USUAL_CORRELATION,
        changed=changed,
        variance=variance,
        graded=False,
        sampling_part=part,
        source=f"assumed: correlation {USUAL_CORRELATION} and {what}, since no two models in the "
        "history answered it under one protocol",
        sampling_source=sampling,
    )


_WITHIN = """
SELECT r.model, avg(question.variance) AS variance
FROM runs AS r
JOIN (
    SELECT run_id, sample_id, var_samp(score) AS variance FROM samples
    WHERE score IS NOT NULL GROUP BY ALL HAVING count(*) > 1
) AS question USING (run_id)
WHERE r.task = ? AND r.variant = ? AND r.status = 'done'
GROUP BY r.model
ORDER BY r.model
"""


def _within(db: Connection, task: Task, against: str | None) -> float | None:
    """Variance of one question's answers, of `against` where it was asked several times."""
    found = {
        row["model"]: float(row["variance"])
        for row in _rows(db, _WITHIN, [task.name, task.variant])
    }
    if against in found:
        return found[against]
    return sum(found.values()) / len(found) if found else None


_SHARE = "SELECT value FROM leaderboard WHERE task = ? AND variant = ? AND model = ? LIMIT 1"


def _share(db: Connection, task: Task, against: str) -> float | None:
    row = db.execute(_SHARE, [task.name, task.variant, against]).fetchone()
    return float(row[0]) if row and 0 < row[0] < 1 else None


def _rows(db: Connection, sql: str, values: Sequence[object]) -> list[dict[str, Any]]:
    cursor = db.execute(sql, list(values))
    columns = [column[0] for column in cursor.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def _model(db: Connection, home: Path, name: str) -> str:
    """The name under which the history knows the model; a pair's bare name means one of both."""
    known = [row[0] for row in db.execute("SELECT DISTINCT model FROM runs").fetchall()]
    if name in known:
        return name
    try:
        return models.model(name, home).name
    except UsageError as error:
        hint = did_you_mean(name, known, error.hint)
        raise UsageError(f"no model is called `{name}`", hint) from None
