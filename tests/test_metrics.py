from __future__ import annotations

import pytest

from harness.metrics import rates, summarise
from harness.stats import normal_interval, wilson
from harness.types import Measure, Score, Scored


def scored(
    sample_id: str,
    value: float,
    *,
    index: int = 0,
    group: str = "",
    answer: str | None = "4",
    truncated: bool = False,
) -> Scored:
    score = Score(value=value, answer=answer, grader="number", version=1)
    return Scored(sample_id=sample_id, index=index, group=group, score=score, truncated=truncated)


def test_right_and_wrong_answers_get_a_wilson_interval() -> None:
    (measure,) = summarise("acc", [scored(f"q{i}", float(i < 32)) for i in range(50)])
    interval = wilson(32, 50)
    assert measure == Measure(
        metric="acc",
        value=0.64,
        stderr=pytest.approx(0.0686, abs=1e-4),  # type: ignore[arg-type]
        ci_low=interval.low,
        ci_high=interval.high,
        n=50,
    )


def test_several_completions_count_as_their_mean_over_samples() -> None:
    items = [scored("a", v, index=i) for i, v in enumerate([1.0, 0.0, 1.0, 0.0])]
    items += [scored("b", v, index=i) for i, v in enumerate([1.0, 1.0, 1.0, 1.0])]
    (measure,) = summarise("acc", items)
    assert (measure.value, measure.n) == (0.75, 2)
    assert measure.stderr == pytest.approx(0.25)
    interval = normal_interval(0.75, 0.25)
    assert (measure.ci_low, measure.ci_high) == (interval.low, interval.high)


def test_completions_that_all_agree_still_get_the_normal_interval() -> None:
    items = [scored(s, v, index=i) for s, v in (("a", 1.0), ("b", 0.0)) for i in range(2)]
    (measure,) = summarise("acc", items)
    assert measure.ci_low == normal_interval(0.5, 0.5).low


def test_graded_scores_get_the_normal_interval() -> None:
    (measure,) = summarise("f1", [scored("a", 0.25), scored("b", 0.75)])
    assert (measure.value, measure.stderr) == (0.5, 0.25)
    assert measure.ci_high == normal_interval(0.5, 0.25).high


def test_each_group_has_a_measure_and_the_whole_is_not_their_mean() -> None:
    items = [scored("a", 1.0, group="law"), scored("b", 0.0, group="art")]
    items += [scored("c", 0.0, group="art"), scored("d", 0.0, group="art")]
    found = [(m.group, m.value, m.n) for m in summarise("acc", items)]
    assert found == [("", 0.25, 4), ("art", 0.0, 3), ("law", 1.0, 1)]


def test_nothing_scored_gives_no_measure() -> None:
    assert summarise("acc", []) == []
    assert rates([]) == []


def test_rates_count_what_was_cut_off_and_what_could_not_be_read() -> None:
    items = [
        scored("a", 1.0),
        scored("b", 0.0, answer=None, truncated=True),
        scored("c", 0.0, answer=None),
        scored("d", 0.0, group="law"),
    ]
    found = {m.metric: (m.value, m.group, m.n) for m in rates(items)}
    assert found == {"truncation_rate": (0.25, "", 4), "parse_failure_rate": (0.5, "", 4)}
