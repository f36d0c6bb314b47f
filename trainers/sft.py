"""Supervised fine-tuning: the mean of -log p(token) over the tokens of the completions.

    python -m trainers.sft FOLDER

On TRL's SFTTrainer, which computes it from hidden states without holding the logits. Other
reductions than the mean over all tokens of a step are those of `trainers.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import UsageError
from harness.trainer import Trainer, read_params, read_recipe
from harness.types import Recipe
from trainers.running import run, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """train_on: `completion` masks the prompt, `all` learns it too. eos: whether a text ends with
    the end-of-text token; a chat template ends turns itself. packing: several examples in one
    sequence, each seeing only itself (`documents`), or the texts of all cut into sequences of
    `max_length` that see what stands before them (`wrapped`). reduction: see `trainers.losses`."""

    train_on: Literal["completion", "all"] = "completion"
    eos: bool = True
    packing: Literal["none", "documents", "wrapped"] = "none"
    reduction: Literal["token_global", "token_micro", "sequence", "sequence_sum"] = "token_global"


def check(recipe: Recipe) -> None:
    params = read_params(recipe, TRAINER)
    if params.packing != "none" and params.reduction.startswith("sequence"):
        raise UsageError(
            f"`params.reduction: {params.reduction}` with `params.packing: {params.packing}`: "
            "packed sequences hold several examples, or parts of them",
            "use a reduction over tokens, or `packing: none`",
        )


TRAINER = Trainer(
    name="sft",
    summary="next-token loss on demonstrations",
    data="demonstrations",
    params=Params,
    check=check,
)


def main(folder: Path) -> None:
    from trl import SFTTrainer

    from trainers.demonstrations import Parts, prepared
    from trainers.token_training import train_tokens

    recipe = read_recipe(folder)
    params = read_params(recipe, TRAINER)
    if params.reduction != "token_global":
        train_tokens(folder, TRAINER, weighting="one")
        return
    parts: Parts = prepared(folder, recipe, params)
    trainer: Any = SFTTrainer(**parts.arguments)
    train(trainer, recipe, folder)


if __name__ == "__main__":
    run(main)
