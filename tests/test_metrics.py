from __future__ import annotations

import pytest

from harness.metrics import essence, rates, sampling_measures, summarise
from harness.stats import (
    clustered_stderr,
    mean_interval,
    pass_at_k,
    split_variance,
    wilson,
    wilson_clustered,
)
from harness.types import Measure, Score, Scored


def scored(
    sample_id: str,
    value: float,
    *,
    index: int = 0,
    group: str = "",
    answer: str | None = "4",
    truncated: bool = False,
    tags: tuple[str, ...] = (),
) -> Scored:
    score = Score(value=value, answer=answer, grader="number", version=1)
    return Scored(
        sample_id=sample_id,
        index=index,
        group=group,
        score=score,
        truncated=truncated,
        tags=tags,
    )


def drawn(sample_id: str, answers: str, right: str = "4") -> list[Scored]:
    """Completions of one question that gave these one-letter answers; `-` could not be read."""
    return [
        scored(sample_id, float(one == right), index=i, answer=None if one == "-" else one)
        for i, one in enumerate(answers)
    ]


def values(found: list[Measure]) -> dict[str, float]:
    return {measure.metric: measure.value for measure in found}


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
    interval = wilson_clustered(0.75, 0.25, 2, 8)
    assert (measure.ci_low, measure.ci_high) == (interval.low, interval.high)


def test_completions_that_all_agree_are_as_sure_as_one_of_each() -> None:
    items = [scored(s, v, index=i) for s, v in (("a", 1.0), ("b", 0.0)) for i in range(2)]
    (measure,) = summarise("acc", items)
    interval = wilson(1, 2)
    assert (measure.ci_low, measure.ci_high) == (interval.low, interval.high)


def test_graded_scores_get_the_bootstrap_interval() -> None:
    scores = [0.25, 0.75, 0.5, 1.0]
    (measure,) = summarise("f1", [scored(str(i), v) for i, v in enumerate(scores)])
    interval = mean_interval(scores)
    assert (measure.value, measure.n) == (0.625, 4)
    assert (measure.ci_low, measure.ci_high) == (interval.low, interval.high)


def test_questions_that_hang_together_are_counted_by_group() -> None:
    items = [scored(f"{g}{i}", float(g == "a"), group=g) for g in "abcd" for i in range(5)]
    plain, *_ = summarise("acc", items)
    measure, *_ = summarise("acc", items, clustered=True)
    clusters = [item.group for item in items]
    assert measure.stderr == clustered_stderr([item.score.value for item in items], clusters)
    assert measure.stderr > 2 * plain.stderr
    interval = wilson_clustered(0.25, measure.stderr, 4, 20)
    assert (measure.ci_low, measure.ci_high, measure.n) == (interval.low, interval.high, 20)


def test_clustered_questions_without_a_group_stand_for_themselves() -> None:
    items = [scored(str(i), float(i < 3)) for i in range(8)]
    assert summarise("acc", items, clustered=True) == summarise("acc", items)


def test_a_judge_that_said_nothing_is_neither_right_nor_wrong() -> None:
    items = [scored("a", 1.0), scored("b", float("nan"), answer=None), scored("c", 0.0)]
    (measure,) = summarise("safe", items)
    assert (measure.value, measure.n) == (0.5, 2)
    assert summarise("safe", [items[1]]) == []


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


def test_tags_are_further_parts_of_the_whole() -> None:
    items = [
        scored("a", 1.0, group="Algebra", tags=("level 1",)),
        scored("b", 0.0, group="Algebra", tags=("level 5",)),
        scored("c", 1.0, group="Geometry", tags=("level 1",)),
    ]
    found = [(m.group, m.value, m.n) for m in summarise("acc", items)]
    assert found == [
        ("", pytest.approx(2 / 3), 3),
        ("Algebra", 0.5, 2),
        ("Geometry", 1.0, 1),
        ("level 1", 1.0, 2),
        ("level 5", 0.0, 1),
    ]


def test_one_completion_each_has_no_sampling_measures() -> None:
    assert sampling_measures("", [scored("a", 1.0), scored("b", 0.0)]) == []
    assert sampling_measures("", []) == []


def test_sixteen_completions_give_all_powers_of_two() -> None:
    items = drawn("a", "4" + "7" * 15) + drawn("b", "4" * 4 + "7" * 12) + drawn("c", "7" * 16)
    found = sampling_measures("", items)
    assert [m.metric for m in found] == [
        *("avg@1", "avg@2", "avg@4", "avg@8", "avg@16"),
        *("pass@1", "pass@2", "pass@4", "pass@8", "pass@16"),
        *("maj@1", "maj@2", "maj@4", "maj@8", "maj@16"),
        *("sampling_stderr", "question_stderr"),
    ]
    by_name = values(found)
    assert by_name["avg@16"] == by_name["pass@1"] == pytest.approx((1 + 4) / 48)
    # The first answers to two of the three questions are right, and one of the second ones.
    assert (by_name["avg@1"], by_name["avg@2"]) == pytest.approx((2 / 3, 1.5 / 3))
    for k in (4, 8, 16):
        expected = (pass_at_k(16, 1, k) + pass_at_k(16, 4, k)) / 3
        assert by_name[f"pass@{k}"] == pytest.approx(expected)
    assert {m.n for m in found} == {3}
    assert all(m.ci_low <= m.value <= m.ci_high for m in found)


def test_the_number_of_completions_is_a_k_too() -> None:
    names = [m.metric for m in sampling_measures("x:", drawn("a", "447") + drawn("b", "777"))]
    assert names[:6] == [*(f"x:avg@{k}" for k in (1, 2, 3)), *(f"x:pass@{k}" for k in (1, 2, 3))]


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ("7444", True),
        ("4777", False),
        ("4747", True),
        ("7474", False),
        ("--4-", True),
        ("----", False),
        ("4--7", True),
    ],
)
def test_the_majority_is_of_answers_and_the_first_given_breaks_ties(
    answers: str, right: bool
) -> None:
    found = values(sampling_measures("", drawn("a", answers) + drawn("b", "4444")))
    assert found["maj@4"] == (1.0 if right else 0.5)


def test_maj_at_k_asks_the_first_k_whatever_their_order_of_arrival() -> None:
    items = drawn("a", "7744") + drawn("b", "4444")
    found = values(sampling_measures("", items[::-1]))
    assert (found["maj@1"], found["maj@2"], found["maj@4"]) == (0.5, 0.5, 0.5)
    assert values(sampling_measures("", drawn("a", "4774") + drawn("b", "4444")))["maj@1"] == 1.0


def test_graded_scores_are_averaged_but_neither_passed_nor_voted() -> None:
    items = [scored(s, v, index=i) for s in "ab" for i, v in enumerate([0.25, 0.5])]
    assert list(values(sampling_measures("", items))) == [
        *("avg@1", "avg@2", "sampling_stderr", "question_stderr")
    ]


def test_parts_of_the_error_are_measures_with_an_interval() -> None:
    items = drawn("a", "4477") + drawn("b", "4447") + drawn("c", "7777")
    sampling, question = split_variance([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    *_, first, second = sampling_measures("", items)
    assert (first.value, second.value) == (sampling.stderr, question.stderr)
    assert (first.ci_low, first.ci_high) == (sampling.interval.low, sampling.interval.high)
    assert first.stderr > 0


def test_long_texts_are_not_held_but_equal_answers_stay_equal() -> None:
    long = Score(value=1.0, answer="x" * 5_000, grader="g", version=2, explanation="y" * 900)
    other = Score(value=0.0, answer="x" * 4_999 + "z", grader="g", version=2)
    kept = essence(long)
    assert kept == essence(long)
    assert kept.answer is not None
    assert len(kept.answer) == 64
    assert kept.answer != essence(other).answer
    assert (kept.explanation, kept.version) == ("", 2)
    unread = Score(value=0.0, answer=None, grader="g", version=2, explanation="y" * 900)
    assert essence(unread).answer is None
    short = Score(value=1.0, answer="4", grader="g", version=2, explanation="read '4'")
    assert essence(short) is short
