"""lm-eval's aggregates as measures: each with n, a standard error and an interval."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.bridge.asking import metric_name
from harness.bridge.build import Built
from harness.errors import DataError
from harness.metrics import with_interval
from harness.stats import normal_interval, wilson
from harness.types import JSON, Measure

_RESAMPLES = 200  # of metrics that lm-eval gives no standard error: its own aggregate may be slow
_SEED = 1234


def measures(built: Built, results: Any) -> Iterator[Measure]:
    """Those of the task or group first, then those of its subgroups and subtasks as groups.

    Values are lm-eval's. Where it has no standard error, that of a task is found by resampling its
    questions with lm-eval's own aggregate, that of a group from those of its subtasks.
    """
    found: dict[tuple[str, str], Measure] = {}
    for name, task in built.tasks.items():
        for metric, filtered in _metrics(results["results"][name]):
            logged = (s for s in results["samples"][name] if s["filter"] == filtered)
            values = [s[metric] for s in logged if metric in s]
            aggregate = task.aggregation().get(metric, statistics.fmean)
            measure = _of_task(name, metric, filtered, results, values, aggregate)
            found[name, measure.metric] = measure
    for name, group in built.groups.items():
        for metric, filtered in _metrics(results["results"][name]):
            key = metric_name(metric, filtered)
            leaves = [task.task_name for task in group.get_all_tasks()]
            parts = [found[leaf, key] for leaf in leaves if (leaf, key) in found]
            found[name, key] = _of_group(name, metric, filtered, results["results"][name], parts)
    whole = built.asked_for_name
    for (name, _), measure in sorted(found.items(), key=lambda item: item[0][0] != whole):
        yield replace(measure, group="") if name == whole else measure


def _metrics(entries: JSON) -> Iterator[tuple[str, str]]:
    for key in entries:
        metric, comma, filtered = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            yield metric, filtered


def _of_task(
    name: str,
    metric: str,
    filtered: str,
    results: Any,
    values: Sequence[Any],
    aggregate: Callable[[Sequence[Any]], float],
) -> Measure:
    value, stderr = _estimate(name, metric, filtered, results["results"][name])
    if stderr is None:
        stderr = _resampled(values, aggregate)
    right = sum(values) if all(isinstance(v, int | float) and v in (0, 1) for v in values) else None
    share = right is not None and math.isclose(value, right / len(values), abs_tol=1e-12)
    interval = wilson(round(right or 0), len(values)) if share else normal_interval(value, stderr)
    return with_interval(metric_name(metric, filtered), name, value, stderr, interval, len(values))


def _resampled(values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float]) -> float:
    """Bootstrap standard error; 0 for one value, as everywhere here."""
    if len(values) == 1:
        return 0.0
    draw = random.Random(_SEED)
    return statistics.stdev(
        float(aggregate(draw.choices(values, k=len(values)))) for _ in range(_RESAMPLES)
    )


def _of_group(
    name: str, metric: str, filtered: str, entries: JSON, parts: Sequence[Measure]
) -> Measure:
    value, stderr = _estimate(name, metric, filtered, entries)
    n = sum(part.n for part in parts)
    if stderr is None:
        stderr = math.sqrt(sum((part.n * part.stderr) ** 2 for part in parts)) / n
    interval = normal_interval(value, stderr)
    return with_interval(metric_name(metric, filtered), name, value, stderr, interval, n)


def _estimate(name: str, metric: str, filtered: str, entries: JSON) -> tuple[float, float | None]:
    """A metric and its standard error, None where lm-eval has none ('N/A')."""
    stderr = entries[f"{metric}_stderr,{filtered}"]
    value = _number(entries[f"{metric},{filtered}"], metric, name)
    return value, None if isinstance(stderr, str) else float(stderr)


def _number(value: Any, metric: str, name: str) -> float:
    value = value.item() if hasattr(value, "item") else value  # a number of numpy
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(
            f"lm-eval gives `{metric}` of `{name}` as {value!r}, which is no number for a table",
            "look at the answers in completions.jsonl of the run",
        )
    return float(value)
