"""Dynamic fine-tuning: the loss of each token times its own probability (arXiv 2508.05629).

    python -m trainers.dft FOLDER

The probability is a constant for the gradient, so that tokens which the model finds unlikely pull
less than they do in `sft`.
"""

from __future__ import annotations

from pathlib import Path

from harness.trainer import Trainer
from trainers import sft
from trainers.running import run

TRAINER = Trainer(
    name="dft",
    summary="next-token loss of each token weighted by its probability",
    data="demonstrations",
    params=sft.Params,
    check=sft.check,
)


def main(folder: Path) -> None:
    from trainers.token_training import train_tokens

    train_tokens(folder, TRAINER, weighting="probability")


if __name__ == "__main__":
    run(main)
