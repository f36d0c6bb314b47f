"""What a sweep found, as JSON and as rows of the history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.geometry.measuring import OVERALL, anchored, measures
from harness.geometry.resampling import Spread
from harness.geometry.trend import Evidence
from harness.steering import analysis
from harness.steering.analysis import Sweep
from harness.steering.points import NONE, SHUFFLED
from harness.types import JSON, Measure, Run

SWEEP = "sweep.json"
IDENTITY = (
    "For two classes Xie-Beni and Calinski-Harabasz are one number: "
    "XB * CHI = (n - 2) * n0 * n1 / n^2, so `separation` = 1/XB says all that both say."
)

_P_VALUES = ("trend_p", "order_p", "direction_p", "shuffled_p")

Beside = Mapping[float, Sequence[tuple[Run, Sequence[Measure]]]]


def as_json(
    run_id: str,
    found: Sweep,
    trend: Evidence,
    flags: Sequence[str],
    *,
    vector: JSON,
    tasks: Beside,
) -> JSON:
    """The object of `bench steer --json`. ci_low, ci_high: of the separation."""
    failed = [
        f"failed={run.task}" for some in tasks.values() for run, _ in some if run.status != "done"
    ]
    randoms = found.randoms()
    return {
        "run_id": run_id,
        "points": [*_points(found, tasks), *_shuffled_points(found)],
        "trend_p": trend.trend_p,
        "monotone": trend.monotone,
        "verdict": trend.verdict,
        "flags": [*flags, *dict.fromkeys(failed)],
        "decision": trend.decision,
        "sentence": sentence(trend),
        "difference": {
            "value": trend.difference,
            "ci_low": trend.low,
            "ci_high": trend.high,
            "order_p": trend.order_p,
            "direction_p": trend.direction_p,
            "shuffled_p": trend.shuffled_p,
        },
        "controls": {
            "random": {
                "n": len(randoms),
                "significant": analysis.significant_randoms(found),
                "largest": max((abs(found.difference(name)) for name in randoms), default=None),
            },
            "shuffled": {
                "n": analysis.SHUFFLES,
                "significant": analysis.significant_shuffles(found),
            },
        },
        "vector": vector,
        "note": IDENTITY,
    }


def sentence(trend: Evidence) -> str:
    """The verdict in plain words."""
    numbers = (
        f"separation changes by {trend.difference:+.3f} "
        f"({trend.low:+.3f} to {trend.high:+.3f}) along the sweep"
    )
    if trend.verdict == "undecided":
        return f"{numbers}: {trend.controls} random directions are too few to tell."
    if trend.verdict == "flat":
        return f"{numbers}: no trend beyond order, sampling and controls ({_why(trend)})."
    steady = "steadily" if trend.verdict != "erratic" else "but not steadily"
    return (
        f"{numbers}: more than {trend.controls} random directions and shuffled labels do, "
        f"{steady} (p = {trend.trend_p:.2g})."
    )


def _why(trend: Evidence) -> str:
    reasons = {
        "its order could be chance": trend.order_p > 0.05,
        "random directions do as much": trend.direction_p > 0.01 or not trend.beaten,
        "shuffled labels do as much": trend.shuffled_p > 0.05,
        "its interval holds zero": trend.low <= 0 <= trend.high,
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds)


def _points(found: Sweep, tasks: Beside) -> Iterator[JSON]:
    for (control, strength), portrait in found.portraits.items():
        cloud, score = portrait.overall, portrait.repo.get(OVERALL)
        around = cloud.spreads["separation"]
        value, _ = anchored(cloud, found.anchors)
        wide = len(portrait.clouds) > 1
        point: JSON = {
            "lambda": strength,
            "control": control,
            "separation": cloud.indices.separation,
            "silhouette": cloud.indices.silhouette,
            "probe_auc": cloud.probe_auc,
            "aqi_repo": score.aqi if score and wide else None,
            "aqi_anchor": value,
            "ci_low": around.low,
            "ci_high": around.high,
        }
        if control == NONE and strength in tasks:
            point["tasks"] = [_task(run, own) for run, own in tasks[strength]]
        yield point


def _task(run: Run, own: Sequence[Measure]) -> JSON:
    """The primary measure of another task; None where its run did not end well."""
    whole = [m for m in own if m.metric == run.primary_metric and m.group == ""]
    name = run.task_id
    told: JSON = {"run_id": run.run_id, "task": name, "status": run.status}
    for metric in whole:
        told |= {"metric": metric.metric, "value": metric.value, "n": metric.n}
        told |= {"ci_low": metric.ci_low, "ci_high": metric.ci_high}
    return told


def _shuffled_points(found: Sweep) -> Iterator[JSON]:
    """Mean over all shuffles, and the band that 95 % of them are in."""
    empty: dict[str, Any] = dict.fromkeys(("silhouette", "probe_auc", "aqi_repo", "aqi_anchor"))
    for strength, values in found.shuffled.items():
        low, high = np.percentile(values, [2.5, 97.5])
        yield {
            "lambda": strength,
            "control": SHUFFLED,
            "separation": float(values.mean()),
            **empty,
            "ci_low": float(low),
            "ci_high": float(high),
        }


def run_measures(found: Sweep, trend: Evidence, tasks: Beside) -> Iterator[Measure]:
    """Rows of the history. group: `<control>/lambda=<x>`, and behind it `/<group>`."""
    n = len(found.labelled.safe)
    yield from _whole_sweep(found, trend)
    for (control, strength), portrait in found.portraits.items():
        place = f"{control}/lambda={strength:g}"
        for one in measures(portrait):
            group = f"{place}/{one.group}" if one.group else place
            yield Measure(
                metric=one.metric,
                group=group,
                value=one.value,
                stderr=one.stderr,
                ci_low=one.ci_low,
                ci_high=one.ci_high,
                n=one.n,
            )
        value, spread = anchored(portrait.overall, found.anchors)
        yield _measure("aqi_anchor", place, value, spread, n)
    for strength, values in found.shuffled.items():
        low, high = (float(end) for end in np.percentile(values, [2.5, 97.5]))
        band = Spread(stderr=float(values.std(ddof=1)), low=low, high=high)
        place = f"{SHUFFLED}/lambda={strength:g}"
        yield _measure("separation", place, float(values.mean()), band, n)
    for strength, some in tasks.items():
        for run, own in some:
            name = run.task_id
            for one in own:
                place = f"{NONE}/lambda={strength:g}"
                group = f"{place}/{one.group}" if one.group else place
                spread = Spread(stderr=one.stderr, low=one.ci_low, high=one.ci_high)
                yield _measure(f"{name}/{one.metric}", group, one.value, spread, one.n)


def _whole_sweep(found: Sweep, trend: Evidence) -> Iterator[Measure]:
    """What is said of all points together, with group ''. monotone, antitone, rises: 1 or 0."""
    n = len(found.labelled.safe)
    stderr = (trend.high - trend.low) / 4
    around = Spread(stderr=stderr, low=trend.low, high=trend.high)
    yield _measure("separation_difference", "", trend.difference, around, n)
    ends = [found.portraits[NONE, s].overall for s in (found.lambdas[0], found.lambdas[-1])]
    plain = {
        "silhouette_difference": ends[1].indices.silhouette - ends[0].indices.silhouette,
        "probe_auc_difference": ends[1].probe_auc - ends[0].probe_auc,
        **{name: getattr(trend, name) for name in _P_VALUES},
        "monotone": float(trend.monotone),
        "antitone": float(trend.antitone),
        "rises": float(trend.verdict == "rises"),
    }
    for name, value in plain.items():
        yield _measure(name, "", value, Spread(stderr=0.0, low=value, high=value), n)


def _measure(metric: str, group: str, value: float, around: Spread, n: int) -> Measure:
    return Measure(
        metric=metric,
        group=group,
        value=value,
        stderr=around.stderr,
        ci_low=around.low,
        ci_high=around.high,
        n=n,
    )
