from __future__ import annotations

import random

import pytest

from harness import sample_size
from harness.sample_size import (
    changed_share,
    mcnemar_power,
    normal_difference,
    normal_needed,
    normal_power,
    questions_needed,
    smallest_difference,
)
from harness.stats import mcnemar_exact


@pytest.mark.parametrize(
    ("correlation", "two_points", "one_point"),
    [(0.0, 9812, 39245), (0.5, 4906, 19623), (0.7, 2944, 11774), (0.85, 1472, 5887)],
)
def test_the_formula_gives_the_published_numbers(
    correlation: float, two_points: int, one_point: int
) -> None:
    variance = changed_share(0.5, correlation)
    assert normal_needed(variance, 0.02) == pytest.approx(two_points, abs=1)
    assert normal_needed(variance, 0.01) == pytest.approx(one_point, abs=1)


@pytest.mark.parametrize(
    ("n", "paired", "unpaired"),
    [(14042, 0.9, 1.7), (1319, 3.0, 5.5), (500, 4.9, 8.9), (100, 10.9, 19.8), (30, 19.8, 36.2)],
)
def test_the_formula_gives_the_published_differences(
    n: int, paired: float, unpaired: float
) -> None:
    assert round(100 * normal_difference(n, changed_share(0.5, 0.7)), 1) == paired
    assert round(100 * normal_difference(n, changed_share(0.5, 0.0)), 1) == unpaired


def test_power_of_the_formula_is_what_its_number_of_questions_promises() -> None:
    needed = normal_needed(0.15, 0.02)
    assert needed is not None
    assert normal_power(needed, 0.15, 0.02) == pytest.approx(0.8, abs=1e-3)
    assert normal_power(10, 0.0, 0.02) == 1.0


@pytest.mark.parametrize(
    ("n", "changed", "delta"), [(200, 0.15, 0.08), (30, 0.3, 0.3), (1000, 0.1, 0.025)]
)
def test_power_is_how_often_the_exact_test_finds_the_difference(
    n: int, changed: float, delta: float
) -> None:
    generator = random.Random(0)
    found, tables = 0, 2_000
    for _ in range(tables):
        count = sum(generator.random() < changed for _ in range(n))
        won = sum(generator.random() < (1 + delta / changed) / 2 for _ in range(count))
        lost = count - won
        found += won > lost and mcnemar_exact(lost, won) < 0.05
    assert mcnemar_power(n, changed - delta**2, delta) == pytest.approx(found / tables, abs=0.03)


def test_few_questions_need_more_than_the_formula_says() -> None:
    exact, formula = smallest_difference(30, 0.15), normal_difference(30, 0.15)
    assert exact is not None
    assert exact > formula


def test_summed_and_normal_tails_meet() -> None:
    last, first = sample_size._EXACT_UP_TO, sample_size._EXACT_UP_TO + 1
    assert 0 <= sample_size._critical(first, 0.05) - sample_size._critical(last, 0.05) <= 1
    ours, theirs = (sample_size._tail(n, 0.6, round(0.57 * n)) for n in (last, first))
    assert ours == pytest.approx(theirs, abs=0.02)


def test_needed_and_smallest_difference_are_each_others_inverse() -> None:
    needed = questions_needed(variance=0.2, delta=0.03)
    assert needed is not None
    assert smallest_difference(needed, variance=0.2) == pytest.approx(0.03, abs=2e-4)


def test_nothing_is_promised_where_nothing_can_be_found() -> None:
    assert smallest_difference(5, variance=0.2) is None
    assert questions_needed(variance=0.5, delta=1e-5) is None
    assert mcnemar_power(100, variance=0.0, delta=0.0) == 0.0


def test_a_difference_needs_as_many_changed_questions() -> None:
    assert mcnemar_power(100, variance=0.0, delta=0.5) == mcnemar_power(100, 0.25, 0.5)


def test_a_stricter_level_needs_more_questions() -> None:
    one, five = (questions_needed(0.15, 0.03, alpha=0.05 / family) for family in (1, 5))
    assert one is not None
    assert five is not None
    assert 1.3 < five / one < 1.7
