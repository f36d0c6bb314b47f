"""PPO with rollouts of the current policy, a critic, GAE and an adaptive KL penalty.

TRL has none since 1.0. The loop is in `ppo_training`, its arithmetic in `advantages`, the networks
in `actor_critic`; this module says what can be set and what is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.trainer import Trainer
from harness.types import Recipe
from trainers.rewards import RolloutParams, require, reward_task
from trainers.running import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(RolloutParams):
    """rollout_batch_size: completions of one round over all processes, one for each problem; None
    is one optimiser step's (`global_batch_size`). rollout_micro_batch_size: prompts that a process
    answers at a time. ppo_epochs: how often a round is learned from. gamma, lam: of GAE. clip,
    value_clip: of the probability ratio and of the value. kl_coef: of the penalty in each token's
    reward, led towards kl_target (nats a completion; None: it stays) within about kl_horizon
    completions. critic: see `ActorCritic`.
    """

    rollout_batch_size: int | None = None
    rollout_micro_batch_size: int = 32
    ppo_epochs: int = 2
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    kl_coef: float = 0.05
    kl_target: float | None = 6.0
    kl_horizon: int = 10_000
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    whiten_advantages: bool = True
    critic: Literal["shared", "separate"] = "shared"

    def __post_init__(self) -> None:
        RolloutParams.__post_init__(self)
        for name in ("rollout_micro_batch_size", "ppo_epochs", "kl_horizon"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("gamma", "lam"):
            require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for name in ("clip", "value_clip"):
            require(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("value_coef", "entropy_coef", "kl_coef"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        require(
            "kl_target", self.kl_target, self.kl_target is None or self.kl_target > 0, "above 0"
        )

    def round_size(self, recipe: Recipe) -> int:
        """Completions of one round over all processes."""
        return self.rollout_batch_size or recipe.global_batch_size


def check(recipe: Recipe) -> None:
    """Raises UsageError for a launcher that shards weights, which sampling needs whole, and for a
    round that cannot be cut into optimiser steps."""
    params = Params(**recipe.params)
    reward_task(params.reward)
    if recipe.launcher not in ("single", "ddp"):
        raise UsageError(
            f"`ppo` does not run under launcher `{recipe.launcher}`",
            "use `launcher: single` or `launcher: ddp`, or method `grpo`",
        )
    size = params.round_size(recipe)
    if size % recipe.global_batch_size:
        raise UsageError(
            f"`params.rollout_batch_size` {size} is no multiple of `global_batch_size` "
            f"{recipe.global_batch_size}",
            f"use {recipe.global_batch_size * max(1, size // recipe.global_batch_size)}",
        )


TRAINER = Trainer(
    name="ppo",
    summary="own rollouts, critic, GAE, clipped policy and value loss, adaptive KL penalty",
    data="problems",
    params=Params,
    reference=True,
    objective=("reward", True),
    check=check,
)


def main(folder: Path) -> None:
    from trainers.ppo_run import train

    train(folder)


if __name__ == "__main__":
    run(main)
