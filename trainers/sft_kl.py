"""Supervised fine-tuning held close to the model that it started from.

    python -m trainers.sft_kl FOLDER

The loss of a token is `-log p + kl_weight * KL(start || policy)`, the divergence over the whole
vocabulary: the ablation of `asft` without the weight p.
"""

from __future__ import annotations

from pathlib import Path

from harness.trainer import Trainer
from harness.types import Recipe
from trainers import divergence
from trainers.divergence import Params
from trainers.running import run


def check(recipe: Recipe) -> None:
    divergence.check(recipe, TRAINER)


TRAINER = Trainer(
    name="sft_kl",
    summary="sft, held close to the start model by a KL divergence",
    data="demonstrations",
    params=Params,
    reference=True,
    check=check,
)


def main(folder: Path) -> None:
    from trainers.token_training import train_tokens

    train_tokens(folder, TRAINER, weighting="one")


if __name__ == "__main__":
    run(main)
