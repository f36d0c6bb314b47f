"""Advantages and clipped losses, against worked examples and against numbers done by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from trainers.advantages import (
    AdaptiveKL,
    clipped_policy_loss,
    clipped_value_loss,
    dr_grpo_advantages,
    explained_variance,
    gae,
    grpo_advantages,
    kl_estimate,
    masked_mean,
    rloo_advantages,
    token_rewards,
    whiten,
)

REWARDS = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1])
RATIOS = torch.tensor([0.5, 0.9, 1.1, 1.5])


def close(actual: object, expected: object, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected), atol=tolerance, rtol=0, check_dtype=False
    )


def test_grpo_divides_by_the_unbiased_standard_deviation_of_the_group() -> None:
    expected = [0.8660239, -0.8660239, -0.8660239, 0.8660239]
    expected += [-0.4999990, -0.4999990, -0.4999990, 1.4999970, 0, 0, 0, 0]
    close(grpo_advantages(REWARDS, 4), expected, 1e-6)


def test_dr_grpo_only_takes_the_mean_of_the_group_off() -> None:
    expected = [0.5, -0.5, -0.5, 0.5, -0.25, -0.25, -0.25, 0.75, 0, 0, 0, 0]
    close(dr_grpo_advantages(REWARDS, 4), expected)


def test_rloo_compares_a_reward_with_the_mean_of_the_others() -> None:
    rewards = torch.tensor([3.0, 0, 1, 0, 0, 8])
    close(rloo_advantages(rewards, 3), [2.5, -2, -0.5, -4, -4, 8])


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [(1.0, [-0.5, -0.9, -1.1, -1.2]), (-1.0, [0.8, 0.9, 1.1, 1.5])],
)
def test_the_policy_loss_takes_the_worse_of_the_ratio_and_the_clipped_ratio(
    advantage: float, expected: list[float]
) -> None:
    close(clipped_policy_loss(RATIOS, torch.full((4,), advantage), 0.2, 0.2), expected)


def test_the_upper_bound_of_the_ratio_can_be_another_one() -> None:
    close(clipped_policy_loss(RATIOS, torch.ones(4), 0.2, 0.28), [-0.5, -0.9, -1.1, -1.28])


def test_a_clipped_ratio_has_no_gradient() -> None:
    ratio = RATIOS.clone().requires_grad_()
    clipped_policy_loss(ratio, torch.tensor([1.0, -1, 1, 1]), 0.2, 0.2).sum().backward()
    close(ratio.grad, [-1.0, 1, -1, 0])


def test_the_value_loss_takes_the_worse_of_the_value_and_the_clipped_value() -> None:
    values, old = torch.tensor([0.5, 0.1, 0.9]), torch.tensor([0.2, 0.2, 0.2])
    # 0.5 is kept at 0.4; 0.1 is within the clip; moving 0.9 away from the return is not hidden.
    close(clipped_value_loss(values, old, torch.tensor([1.0, 1, 0]), 0.2), [0.18, 0.405, 0.405])


def test_gae_equals_the_worked_example() -> None:
    rewards, values = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.5, 0.6, 0.7]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), 0.99, 0.95)
    close(advantages, [[0.446828575, 0.37515, 0.3]])
    close(returns, [[0.946828575, 0.97515, 1.0]])


def test_gae_of_a_short_row_is_that_of_the_row_alone() -> None:
    rewards, values = torch.randn(3, 5), torch.randn(3, 5)
    mask = torch.tensor([[1.0] * 5, [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    for row, length in enumerate((5, 3, 1)):
        alone = slice(row, row + 1), slice(0, length)
        expected = gae(rewards[alone], values[alone], torch.ones(1, length), 0.9, 0.8)
        close(advantages[alone], expected[0])
        close(returns[alone], expected[1])
        assert not advantages[row, length:].any()
        assert not returns[row, length:].any()


def test_gae_with_lambda_one_is_the_discounted_reward_less_the_value() -> None:
    rewards, values = torch.tensor([[1.0, 2, 4]]), torch.tensor([[3.0, 5, 7]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), 0.5, 1.0)
    close(returns, [[3.0, 4, 4]])
    close(advantages, [[0.0, -1, -3]])


def test_the_score_is_earned_by_the_last_valid_token_of_each_row() -> None:
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    kl = torch.tensor([[0.1, 0.2, 0.3]] * 4)
    rewards = token_rewards(torch.tensor([1.0, 2, 3, 4]), kl, mask, 0.5)
    expected = [[-0.05, -0.1, 0.85], [-0.05, 1.9, 0], [2.95, 0, 0], [0, 0, 0]]
    close(rewards, expected)


def test_kl_estimates_of_two_known_distributions_have_their_kl_as_mean() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = float((p * (p / q).log()).sum())
    for estimator in ("k1", "k3"):
        assert float((p * kl_estimate(p.log(), q.log(), estimator)).sum()) == pytest.approx(exact)
    close(kl_estimate(p.log(), q.log(), "k2"), (p / q).log() ** 2 / 2)
    assert (kl_estimate(p.log(), q.log(), "k3") >= 0).all()


def test_whitened_values_have_mean_zero_and_variance_one_over_valid_tokens() -> None:
    values = torch.tensor([[1.0, 3, 99], [5, 7, 99]])
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    unit = 1 / math.sqrt(5)
    expected = [[-3 * unit, -1 * unit, 0], [1 * unit, 3 * unit, 0]]
    close(whiten(values, mask), expected)


def test_sums_are_taken_over_all_processes() -> None:
    values, mask = torch.tensor([[1.0, 3]]), torch.ones(1, 2)
    other = torch.tensor([[5.0, 7]])
    both = torch.cat([values, other])
    parts = itertools.chain(
        [torch.tensor([12.0, 2]), ((other - 4) ** 2).sum() * torch.tensor([1.0, 0])]
    )

    def total(sums: torch.Tensor) -> torch.Tensor:
        added = next(parts)
        return sums + torch.tensor([float(added[0]), 2.0])

    close(whiten(values, mask, total), whiten(both, torch.ones(2, 2))[:1])


def test_the_mean_of_no_token_is_zero() -> None:
    close(masked_mean(torch.ones(2, 2), torch.zeros(2, 2)), 0.0)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_the_mean() -> None:
    returns, mask = torch.tensor([[1.0, 2, 3, 99]]), torch.tensor([[1.0, 1, 1, 0]])

    def alone(sums: torch.Tensor) -> torch.Tensor:
        return sums

    close(explained_variance(returns, returns, mask, alone), 1.0)
    close(explained_variance(torch.full((1, 4), 2.0), returns, mask, alone), 0.0)
    close(explained_variance(-returns, returns, mask, alone), -3.0)


def test_the_kl_coefficient_rises_above_the_target_and_falls_below_it() -> None:
    control = AdaptiveKL(0.1, target=6.0, horizon=100)
    control.update(kl=6.6, completions=10)  # 10 % over
    assert control.coefficient == pytest.approx(0.1 * 1.01)
    control.update(kl=60.0, completions=10)  # clipped at 20 %
    assert control.coefficient == pytest.approx(0.1 * 1.01 * 1.02)
    control.update(kl=0.0, completions=10)
    assert control.coefficient == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)


def test_without_a_target_the_kl_coefficient_stays() -> None:
    control = AdaptiveKL(0.1, target=None, horizon=100)
    control.update(kl=60.0, completions=10)
    assert control.coefficient == 0.1
