from __future__ import annotations

import math
import random

import pytest

from harness.stats import (
    clustered_stderr,
    detectable_difference,
    detectable_share_difference,
    holm,
    mcnemar_exact,
    mean_interval,
    mean_stderr,
    normal_interval,
    paired_bootstrap,
    paired_share_interval,
    paired_shares,
    pass_at_k,
    split_variance,
    wilson,
    wilson_clustered,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (32, 50, 0.501, 0.759),
        (3, 30, 0.035, 0.256),
        (1, 30, 0.006, 0.167),
        (20, 40, 0.352, 0.648),
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
    ],
)
def test_wilson_interval_gives_the_published_values(
    successes: int, n: int, low: float, high: float
) -> None:
    interval = wilson(successes, n)
    assert (round(interval.low, 3), round(interval.high, 3)) == (low, high)


def test_standard_error_of_a_share_divides_by_n_minus_one() -> None:
    mean, stderr = mean_stderr([1.0] * 32 + [0.0] * 18)
    assert mean == 0.64
    assert stderr == pytest.approx(math.sqrt(0.64 * 0.36 / 49))


def test_one_value_has_no_spread() -> None:
    assert mean_stderr([0.3]) == (0.3, 0.0)


def test_normal_interval_is_196_standard_errors_wide_on_each_side() -> None:
    interval = normal_interval(1.0, 0.1)
    assert interval.low == pytest.approx(0.804, abs=1e-4)
    assert interval.high == pytest.approx(1.196, abs=1e-4)


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (6, 0, 0.03125),
        (2, 8, 0.109375),
        (1, 9, 22 / 1024),
    ],
)
def test_mcnemar_is_the_exact_binomial(lost: int, won: int, p: float) -> None:
    assert mcnemar_exact(lost, won) == p


def test_mcnemar_holds_for_thousands_of_changed_questions() -> None:
    assert mcnemar_exact(6_900, 7_142) == pytest.approx(0.0421, abs=2e-4)
    assert mcnemar_exact(0, 14_042) == 0.0


def test_mcnemar_agrees_with_a_sum_over_all_outcomes() -> None:
    for n in range(1, 25):
        for won in range(n + 1):
            chance = [math.comb(n, k) / 2**n for k in range(n + 1)]
            farther = sum(c for k, c in enumerate(chance) if abs(k - n / 2) >= abs(won - n / 2))
            assert mcnemar_exact(n - won, won) == pytest.approx(farther)


def test_paired_interval_gives_the_published_example() -> None:
    # Airway hyper-responsiveness in 21 children: Fagerland, Lydersen, Laake 2014, table 6.
    interval = paired_share_interval(won=1, lost=7, n=21)
    assert (round(interval.low, 3), round(interval.high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("won", "lost", "n"), [(0, 0, 50), (3, 1, 40), (9, 30, 200), (5, 0, 5)])
def test_paired_interval_holds_the_estimate_and_mirrors(won: int, lost: int, n: int) -> None:
    one, other = paired_share_interval(won, lost, n), paired_share_interval(lost, won, n)
    assert -1 <= one.low <= (won - lost) / n <= one.high <= 1
    assert one.low < one.high
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_paired_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = random.Random(5)
    n, won_share, lost_share = 60, 0.15, 0.05
    covered = 0
    for _ in range(1_000):
        draws = [generator.random() for _ in range(n)]
        won = sum(d < won_share for d in draws)
        lost = sum(d > 1 - lost_share for d in draws)
        interval = paired_share_interval(won, lost, n)
        covered += interval.low <= won_share - lost_share <= interval.high
    assert 930 <= covered <= 970


def test_paired_shares_puts_the_parts_together() -> None:
    test = paired_shares(won=8, lost=2, n=100)
    assert (test.delta, test.p) == (0.06, 0.109375)
    assert test.interval == paired_share_interval(8, 2, 100)


def test_bootstrap_is_the_same_each_time() -> None:
    differences = [0.25, 0.0, -0.5, 0.75, 0.25, 0.0, 0.5, -0.25] * 5
    assert paired_bootstrap(differences) == paired_bootstrap(differences)


def test_bootstrap_interval_is_close_to_the_normal_one_for_many_questions() -> None:
    generator = random.Random(3)
    differences = [generator.choice([-0.5, 0.0, 0.0, 0.25, 0.5]) for _ in range(1_000)]
    test = paired_bootstrap(differences, resamples=4_000)
    expected = normal_interval(*mean_stderr(differences))
    assert test.interval.low == pytest.approx(expected.low, abs=0.004)
    assert test.interval.high == pytest.approx(expected.high, abs=0.004)


def test_bootstrap_p_is_small_for_a_clear_difference_and_large_for_none() -> None:
    generator = random.Random(4)
    noise = [generator.gauss(0, 0.3) for _ in range(200)]
    mean = sum(noise) / len(noise)
    none = [value - mean for value in noise]
    assert paired_bootstrap(none, resamples=2_000).p > 0.9
    assert paired_bootstrap([value + 0.2 for value in none], resamples=2_000).p < 0.001


@pytest.mark.parametrize(("differences", "p"), [([0.5] * 3, 0.25), ([0.0] * 9, 1.0), ([0.1], 1.0)])
def test_bootstrap_of_equal_differences_claims_no_more_than_a_sign_test(
    differences: list[float], p: float
) -> None:
    test = paired_bootstrap(differences)
    assert test.p == p
    assert test.interval.low == test.interval.high == pytest.approx(differences[0])


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_detectable_difference_shrinks_with_questions_and_with_agreement() -> None:
    assert detectable_share_difference(60, 60, 500) == pytest.approx(0.0613, abs=1e-3)
    assert detectable_share_difference(1_700, 1_700, 14_042) < 0.02
    assert detectable_share_difference(2, 1, 14_042) < 0.001


def test_no_difference_is_detectable_below_what_the_exact_test_can_call() -> None:
    assert detectable_share_difference(0, 0, 100) == 0.06
    assert detectable_difference(0.0, 40) == 0.15


@pytest.mark.parametrize(
    ("correct", "at_1", "at_4", "at_8", "at_16"),
    [
        (0, 0.0, 0.0, 0.0, 0.0),
        (1, 0.0625, 0.25, 0.5, 1.0),
        (4, 0.25, 0.7280219780219781, 0.9615384615384616, 1.0),
        (13, 0.8125, 1.0, 1.0, 1.0),
    ],
)
def test_pass_at_k_of_sixteen_gives_the_known_values(
    correct: int, at_1: float, at_4: float, at_8: float, at_16: float
) -> None:
    found = [pass_at_k(16, correct, k) for k in (1, 4, 8, 16)]
    assert found == pytest.approx([at_1, at_4, at_8, at_16], abs=1e-15)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_answer() -> None:
    for n in range(1, 9):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                exact = 1 - math.comb(n - correct, k) / math.comb(n, k)
                assert pass_at_k(n, correct, k) == pytest.approx(exact)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_refuses_more_draws_than_answers(k: int) -> None:
    with pytest.raises(ValueError, match="from 1 to n"):
        pass_at_k(4, 1, k)


def test_clustered_error_of_copies_is_that_of_the_originals() -> None:
    originals = [0.0, 1.0, 1.0, 0.5, 0.25]
    copies = [value for value in originals for _ in range(7)]
    clusters = [str(i) for i in range(5) for _ in range(7)]
    assert clustered_stderr(copies, clusters) == pytest.approx(mean_stderr(originals)[1])


def test_one_cluster_tells_nothing_about_others() -> None:
    assert clustered_stderr([0.0, 1.0], ["a", "a"]) == 0.0


def test_clustered_wilson_lies_between_clusters_and_answers() -> None:
    independent = math.sqrt(0.3 * 0.7 / 160)
    assert wilson_clustered(0.3, independent, 10, 160) == wilson(48, 160)
    assert wilson_clustered(0.3, 0.0, 10, 160) == wilson(48, 160)
    assert wilson_clustered(0.3, 1.0, 10, 160) == wilson(3, 10)
    assert wilson_clustered(0.0, 0.0, 10, 160) == wilson(0, 10)
    assert wilson_clustered(1.0, 0.0, 10, 160).low == wilson(10, 10).low


def test_clustered_wilson_covers_the_truth_about_95_times_in_100() -> None:
    generator = random.Random(7)
    covered = 0
    for _ in range(800):
        chances = [generator.betavariate(0.6, 1.4) for _ in range(40)]
        means = [sum(generator.random() < p for _ in range(8)) / 8 for p in chances]
        interval = wilson_clustered(*mean_stderr(means), 40, 320)
        covered += interval.low <= 0.3 <= interval.high
    assert 740 <= covered <= 780


def test_both_parts_of_the_variance_add_up() -> None:
    generator = random.Random(2)
    scores = [[float(generator.random() < p) for _ in range(6)] for p in (0.1, 0.4, 0.5, 0.9, 0.7)]
    sampling, question = split_variance(scores)
    whole = mean_stderr([sum(values) / 6 for values in scores])[1]
    assert sampling.stderr**2 + question.stderr**2 == pytest.approx(whole**2)
    assert sampling.interval.low <= sampling.stderr <= sampling.interval.high


def test_answers_that_never_change_have_no_sampling_variance() -> None:
    sampling, question = split_variance([[1.0] * 4, [0.0] * 4, [1.0] * 4])
    assert sampling.stderr == sampling.interval.high == 0.0
    assert question.stderr == pytest.approx(1 / 3)


def test_equally_hard_questions_have_no_question_variance() -> None:
    sampling, question = split_variance([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert question.stderr == 0.0
    assert sampling.stderr == pytest.approx(math.sqrt(0.25 / 3))


def test_parts_of_the_variance_are_found_again_on_average() -> None:
    generator = random.Random(11)
    within = between = 0.0
    for _ in range(300):
        chances = [generator.choice([0.2, 0.8]) for _ in range(20)]
        scores = [[float(generator.random() < p) for _ in range(4)] for p in chances]
        sampling, question = split_variance(scores)
        within += sampling.stderr**2 / 300
        between += question.stderr**2 / 300
    assert within == pytest.approx(0.2 * 0.8 / 4 / 20, rel=0.05)
    assert between == pytest.approx(0.09 / 20, rel=0.05)


def test_bootstrap_interval_of_a_skewed_mean_leans_to_its_long_side() -> None:
    values = [0.0] * 35 + [1.0, 0.9, 0.4, 0.2, 0.1]
    interval = mean_interval(values)
    mean, stderr = mean_stderr(values)
    assert interval == mean_interval(values)
    assert interval.high - mean > mean - interval.low
    assert interval.low > normal_interval(mean, stderr).low


def test_interval_of_many_graded_scores_is_normal_and_quick() -> None:
    values = [i % 7 / 6 for i in range(14_042)]
    assert mean_interval(values) == normal_interval(*mean_stderr(values))
