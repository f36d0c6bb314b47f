"""Anchored supervised fine-tuning: `dft`, held close to the model that it started from.

    python -m trainers.asft FOLDER

The loss of a token is `p * -log p + kl_weight * KL(start || policy)`, the divergence over the whole
vocabulary (zhuchichi56/ASFT, ICLR 2026; there in the model's precision, here in float32).
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
    name="asft",
    summary="dft, held close to the start model by a KL divergence",
    data="demonstrations",
    params=Params,
    reference=True,
    check=check,
)


def main(folder: Path) -> None:
    from trainers.token_training import train_tokens

    train_tokens(folder, TRAINER, weighting="probability")


if __name__ == "__main__":
    run(main)
