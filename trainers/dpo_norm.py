"""Length-normalised direct preference optimisation, as Tulu 3 has it (open-instruct `dpo_norm`).

    python -m trainers.dpo_norm FOLDER

Policy and reference both count the mean log-probability of an answer's tokens, so that beta means
something else than in `dpo`: 5 here weighs an answer of 200 tokens like 0.025 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.trainer import Trainer, read_params
from harness.types import Recipe
from trainers import dpo
from trainers.running import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(dpo.Params):
    """beta: what the log-ratio to the start model is multiplied by, on means over the answer's
    tokens. label_smoothing: the chance that a pair is labelled the wrong way round."""

    beta: float = 5.0


def check(recipe: Recipe) -> None:
    dpo.check_pairs(read_params(recipe, TRAINER))


TRAINER = Trainer(
    name="dpo_norm",
    summary="preferences, on means of log-probabilities",
    data="preferences",
    params=Params,
    reference=True,
    objective=("rewards/margins", True),
    check=check,
)


def main(folder: Path) -> None:
    from trainers.pair_training import train_pairs

    train_pairs(folder, TRAINER, normalise=True)


if __name__ == "__main__":
    run(main)
