"""From grades to measures: means with intervals, per group, and the rates behind a score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from harness.stats import mean_stderr, normal_interval, wilson
from harness.types import Measure, Scored

TRUNCATION_RATE = "truncation_rate"
PARSE_FAILURE_RATE = "parse_failure_rate"


def summarise(metric: str, scored: Sequence[Scored]) -> list[Measure]:
    """The mean score over samples, then over the samples of each group where there are groups.

    Several completions of a sample count as their mean. Nothing scored gives no measure: a
    missing answer is never a zero.
    """
    return _summarise(metric, scored, lambda item: item.score.value)


def rates(scored: Sequence[Scored]) -> list[Measure]:
    """Shares of completions that were cut off, and that no answer could be read from.

    For generative tasks: both score 0, and both can be cured without a better model.
    """
    return [
        *_summarise(TRUNCATION_RATE, scored, lambda item: float(item.truncated), grouped=False),
        *_summarise(
            PARSE_FAILURE_RATE, scored, lambda item: float(not item.score.parsed), grouped=False
        ),
    ]


def _summarise(
    metric: str,
    scored: Sequence[Scored],
    value: Callable[[Scored], float],
    *,
    grouped: bool = True,
) -> list[Measure]:
    if not scored:
        return []
    groups: dict[str, list[Scored]] = {}
    for item in scored if grouped else ():
        groups.setdefault(item.group, []).append(item)
    groups.pop("", None)
    return [
        _measure(metric, "", scored, value),
        *(_measure(metric, group, groups[group], value) for group in sorted(groups)),
    ]


def _measure(
    metric: str, group: str, scored: Iterable[Scored], value: Callable[[Scored], float]
) -> Measure:
    by_sample: dict[str, list[float]] = {}
    for item in scored:
        by_sample.setdefault(item.sample_id, []).append(value(item))
    means = [sum(values) / len(values) for values in by_sample.values()]
    mean, stderr = mean_stderr(means)
    single = all(len(values) == 1 for values in by_sample.values())
    if single and all(score in (0.0, 1.0) for score in means):
        interval = wilson(round(sum(means)), len(means))
    else:
        interval = normal_interval(mean, stderr)
    return Measure(
        metric=metric,
        group=group,
        value=mean,
        stderr=stderr,
        ci_low=interval.low,
        ci_high=interval.high,
        n=len(means),
    )
