"""What can be set in the methods that compare completions of one prompt with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from harness.types import Recipe
from trainers.rewards import RolloutParams, require, reward_task


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupParams(RolloutParams):
    """num_generations: completions of one prompt. rollout_batch_size: completions of one round of
    rollouts over all processes; None is one optimiser step's (`global_batch_size`).
    rollout_epochs: how often a round is learned from. epsilon, epsilon_high: below and above 1
    where the probability ratio is clipped; epsilon_high None is epsilon. beta: of the KL penalty,
    0 needs no reference. rollouts: who writes them; `vllm` shares the GPU, of which it takes
    vllm_memory_share, and vllm_sleep frees that while the model learns.
    """

    num_generations: int = 8
    rollout_batch_size: int | None = None
    rollout_epochs: int = 1
    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.0
    rollouts: Literal["transformers", "vllm"] = "transformers"
    vllm_memory_share: float = 0.3
    vllm_sleep: bool = False

    def __post_init__(self) -> None:
        RolloutParams.__post_init__(self)
        least = self.num_generations
        require("num_generations", least, least >= 2, "at least 2: a group is compared within")
        require("rollout_epochs", self.rollout_epochs, self.rollout_epochs >= 1, "at least 1")
        require("epsilon", self.epsilon, 0 < self.epsilon < 1, "above 0 and below 1")
        high = self.epsilon_high
        require("epsilon_high", high, high is None or high > 0, "above 0")
        require("beta", self.beta, self.beta >= 0, "0 or more")
        share = self.vllm_memory_share
        require("vllm_memory_share", share, 0 < share < 1, "above 0 and below 1")

    def round_size(self, recipe: Recipe) -> int:
        """Completions of one round over all processes."""
        return self.rollout_batch_size or recipe.global_batch_size


def check_groups(recipe: Recipe, params: GroupParams) -> None:
    """Raises UsageError where a round cannot be cut into groups and into optimiser steps."""
    reward_task(params.reward)
    size = params.round_size(recipe)
    for name, part in (
        ("num_generations", params.num_generations),
        ("global_batch_size", recipe.global_batch_size),
    ):
        if size % part:
            whole = "rollout_batch_size" if params.rollout_batch_size else "global_batch_size"
            raise UsageError(
                f"`{whole}` {size} is no multiple of `{name}` {part}",
                f"use `{whole}: {part * max(1, size // part)}`",
            )
