"""Direct preference optimisation: sums of log-probabilities (arXiv 2305.18290).

python -m trainers.dpo FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.trainer import Trainer, read_params
from harness.types import Recipe
from trainers.running import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """beta: what the log-ratio to the start model is multiplied by, on sums over the answer's
    tokens. label_smoothing: the chance that a pair is labelled the wrong way round."""

    beta: float = 0.1
    label_smoothing: float = 0.0


def check(recipe: Recipe) -> None:
    check_pairs(read_params(recipe, TRAINER))


def check_pairs(params: Params) -> None:
    if not params.beta > 0:
        raise UsageError(f"`params.beta: {params.beta}` is not above 0", "0.1 is usual for sums")
    if not 0 <= params.label_smoothing < 0.5:
        raise UsageError(
            f"`params.label_smoothing: {params.label_smoothing}` is not from 0 to below 0.5",
            "0 trusts every label",
        )


TRAINER = Trainer(
    name="dpo",
    summary="preferences, on sums of log-probabilities",
    data="preferences",
    params=Params,
    reference=True,
    objective=("rewards/margins", True),
    check=check,
)


def main(folder: Path) -> None:
    from trainers.pair_training import train_pairs

    train_pairs(folder, TRAINER, normalise=False)


if __name__ == "__main__":
    run(main)
