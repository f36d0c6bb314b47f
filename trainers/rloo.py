"""RLOO (arXiv 2402.14740): REINFORCE with the mean reward of the other completions as baseline.

TRL's trainer does the work: one probability ratio for a whole completion, and the KL penalty is
part of the reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.trainer import Trainer, read_params, read_recipe
from harness.types import Recipe
from trainers.group_params import GroupParams, check_groups
from trainers.running import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(GroupParams):
    """whiten_advantages: to mean 0 and standard deviation 1 over the round."""

    whiten_advantages: bool = False


def check(recipe: Recipe) -> None:
    check_groups(recipe, Params(**recipe.params))


TRAINER = Trainer(
    name="rloo",
    summary="REINFORCE with the mean reward of the other completions as baseline",
    data="problems",
    params=Params,
    objective=("reward", True),
    check=check,
)


def main(folder: Path) -> None:
    from trainers.group_training import train_rloo

    params = read_params(read_recipe(folder), TRAINER)
    train_rloo(folder, whiten_advantages=params.whiten_advantages)


if __name__ == "__main__":
    run(main)
