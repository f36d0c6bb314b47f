"""Dr. GRPO (arXiv 2503.20783): GRPO that divides neither by the spread of a group's rewards, which
favours questions that are too easy or too hard, nor by the length of a completion, which favours
long wrong ones."""

from __future__ import annotations

from pathlib import Path

from harness.trainer import Trainer
from harness.types import Recipe
from trainers.group_params import GroupParams, check_groups
from trainers.running import run


def check(recipe: Recipe) -> None:
    check_groups(recipe, GroupParams(**recipe.params))


TRAINER = Trainer(
    name="dr_grpo",
    summary="GRPO without division by the group's spread or the completion's length",
    data="problems",
    params=GroupParams,
    objective=("reward", True),
    check=check,
)


def main(folder: Path) -> None:
    from trainers.group_training import train_grpo

    train_grpo(folder, scale_rewards=False, reduction="constant")


if __name__ == "__main__":
    run(main)
