"""GRPO (DeepSeekMath, arXiv 2402.03300): the mean reward of a group of completions is the baseline.

TRL's trainer does the work; `group_training` says what is set and what is repaired.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.trainer import Trainer, read_params, read_recipe
from harness.types import Recipe
from trainers.group_params import GroupParams, check_groups
from trainers.running import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(GroupParams):
    """scale_rewards: divide advantages by the standard deviation of their group. reduction: of the
    losses of tokens: `sequence`, the mean over each completion and then over completions, as
    published; `token`, the mean over all tokens of the step (DAPO); `constant`, their sum over
    the most tokens that there could be (Dr. GRPO).
    """

    scale_rewards: bool = True
    reduction: Literal["sequence", "token", "constant"] = "sequence"


def check(recipe: Recipe) -> None:
    check_groups(recipe, Params(**recipe.params))


TRAINER = Trainer(
    name="grpo",
    summary="rewards compared within a group of completions, in standard deviations",
    data="problems",
    params=Params,
    objective=("reward", True),
    check=check,
)


def main(folder: Path) -> None:
    from trainers.group_training import train_grpo

    params = read_params(read_recipe(folder), TRAINER)
    train_grpo(folder, scale_rewards=params.scale_rewards, reduction=params.reduction)


if __name__ == "__main__":
    run(main)
