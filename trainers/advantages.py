"""The arithmetic of policy gradients: rewards to advantages, clipped losses, the KL penalty.

Pure functions of tensors. Rows are completions, columns their tokens; `mask` is 1 where a token
was sampled, and those columns are the first of their row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# The divisor of GRPO (DeepSeekMath, arXiv 2402.03300, as CS336 assignment 5 writes it): the
# unbiased standard deviation plus this. TRL 1.16 adds 1e-4.
STD_EPSILON = 1e-6
_WHITEN_EPSILON = 1e-8

KLEstimator = Literal["k1", "k2", "k3"]
Total = Callable[[Tensor], Tensor]


def grpo_advantages(rewards: Tensor, group: int) -> Tensor:
    """Rewards in units of their group's standard deviation, from its mean: shape (n,).

    rewards: (n,), where each `group` in a row answer one prompt; group at least 2. A group whose
    rewards are all equal gets zeros.
    """
    groups = rewards.view(-1, group)
    spread = groups.std(dim=1, keepdim=True)  # unbiased
    return (_centred(groups) / (spread + STD_EPSILON)).view(-1)


def dr_grpo_advantages(rewards: Tensor, group: int) -> Tensor:
    """Rewards from their group's mean, undivided (Dr. GRPO, arXiv 2503.20783): shape (n,)."""
    return _centred(rewards.view(-1, group)).view(-1)


def rloo_advantages(rewards: Tensor, group: int) -> Tensor:
    """Each reward less the mean of the others in its group (RLOO, arXiv 2402.14740): shape (n,)."""
    return (_centred(rewards.view(-1, group)) * (group / (group - 1))).view(-1)


def _centred(groups: Tensor) -> Tensor:
    return groups - groups.mean(dim=1, keepdim=True)


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A), in the shape of `ratio`.

    PPO, arXiv 1707.06347, equation 7. ratio: new over old probability.
    """
    clipped = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error, the worse of the value and of the value kept within `clip` of the
    old one (Schulman's PPO code): in the shape of `values`."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: KLEstimator) -> Tensor:
    """KL(policy ‖ reference) of each token from the one that the policy sampled, in nats.

    Schulman, "Approximating KL divergence" (2020): k1 = log p/q is unbiased and may be negative;
    k2 = k1²/2 and k3 = q/p - 1 - log q/p never are, and k3 is unbiased too.
    """
    difference: Tensor = logprobs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.exp(-difference) - 1 + difference


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """What each token earns: minus `coefficient` x KL, and the score at the last valid token.

    scores: (batch,). kl, mask: (batch, tokens). The last valid token is the last one only in the
    longest row.
    """
    rewards = -coefficient * kl * mask
    last = mask.sum(dim=1).long() - 1
    rows = torch.nonzero(last >= 0).squeeze(1)
    rewards[rows, last[rows]] += scores[rows]
    return rewards


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of each token (GAE, arXiv 1506.02438); zeros where `mask` is 0.

    rewards, values, mask: (batch, tokens). A row ends with its last valid token: nothing is
    expected behind it, also where it was cut at the length limit.
    """
    advantages = torch.zeros_like(rewards)
    coming_value = torch.zeros_like(rewards[:, 0])
    coming_advantage = torch.zeros_like(coming_value)
    for t in reversed(range(rewards.shape[1])):
        error = rewards[:, t] + gamma * coming_value - values[:, t]
        coming_advantage = (error + gamma * lam * coming_advantage) * mask[:, t]
        coming_value = values[:, t] * mask[:, t]
        advantages[:, t] = coming_advantage
    return advantages, (advantages + values) * mask


def masked_mean(values: Tensor, mask: Tensor, total: Total = lambda sums: sums) -> Tensor:
    """Mean over the valid tokens. total: adds up a vector of sums over all processes."""
    sums = total(torch.stack([(values * mask).sum(), mask.sum().to(values.dtype)]))
    return sums[0] / sums[1].clamp(min=1)


def whiten(values: Tensor, mask: Tensor, total: Total = lambda sums: sums) -> Tensor:
    """Values with mean 0 and variance 1 over the valid tokens of all processes, 0 elsewhere."""
    mean = masked_mean(values, mask, total)
    variance = masked_mean((values - mean) ** 2, mask, total)
    return (values - mean) / (variance.sqrt() + _WHITEN_EPSILON) * mask


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the valid tokens: 1 is a perfect critic, 0 one
    that says the mean, less is worse than that."""
    rest, whole = (_variance(x, mask, total) for x in (returns - values, returns))
    return 1 - rest / whole.clamp(min=_WHITEN_EPSILON)


def _variance(values: Tensor, mask: Tensor, total: Total) -> Tensor:
    return masked_mean((values - masked_mean(values, mask, total)) ** 2, mask, total)


@dataclass(slots=True)
class AdaptiveKL:
    """The coefficient of the KL penalty, led towards a KL of `target` nats a completion.

    Ziegler et al. 2019 (arXiv 1909.08593, section 2.2): after n completions it is multiplied by
    1 + clip(kl / target - 1, ±0.2) n / horizon. target None keeps it where it is.
    """

    coefficient: float
    target: float | None
    horizon: int

    def update(self, kl: float, completions: int) -> None:
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * completions / self.horizon
