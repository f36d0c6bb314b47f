"""What trainers of demonstrations have in common: tokens, configuration, model.

parts = prepared(folder, recipe, params)
SFTTrainer(**parts.arguments)            # or a class derived from it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset
from trl import SFTConfig

from harness.trainer import read_examples
from harness.types import JSON, Recipe
from trainers.arguments import training_arguments
from trainers.loading import load_model, load_tokenizer
from trainers.tokenizing import Counts, Tokenizing, TrainOn
from trainers.watching import Watcher

PACKING = {"none": None, "documents": "bfd", "wrapped": "wrapped"}


class Params(Protocol):
    """What every method that learns from demonstrations lets one choose."""

    @property
    def train_on(self) -> TrainOn: ...
    @property
    def eos(self) -> bool: ...
    @property
    def packing(self) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """arguments: of `SFTTrainer`."""

    model: Any
    tokenizer: Any
    config: SFTConfig
    dataset: Dataset
    watcher: Watcher

    @property
    def arguments(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "args": self.config,
            "train_dataset": self.dataset,
            "processing_class": self.tokenizer,
            "callbacks": [self.watcher],
        }


def prepared(folder: Path, recipe: Recipe, params: Params) -> Parts:
    """Bad data is found before the model is loaded; the configuration is made before, too."""
    tokenizer = load_tokenizer(recipe)
    dataset = tokenized(folder, recipe, params, tokenizer)
    config = SFTConfig(**training_arguments(recipe, folder), **settings(recipe, params))
    return Parts(
        model=load_model(recipe, tokenizer),
        tokenizer=tokenizer,
        config=config,
        dataset=dataset,
        watcher=Watcher(folder),
    )


def tokenized(folder: Path, recipe: Recipe, params: Params, tokenizer: Any) -> Dataset:
    """Columns input_ids and labels, which TRL takes as they are."""
    rows = tokenizing(recipe, params, tokenizer).examples(read_examples(folder), Counts())
    return Dataset.from_list([{"input_ids": one.ids, "labels": one.labels} for one in rows])


def tokenizing(recipe: Recipe, params: Params, tokenizer: Any) -> Tokenizing:
    # Where a long text is cut into sequences, none is too long.
    cut = params.packing == "wrapped"
    return Tokenizing(
        tokenizer=tokenizer,
        max_length=10**9 if cut else recipe.max_length,
        overlong=recipe.overlong,
        train_on=params.train_on,
        eos=params.eos,
    )


def settings(recipe: Recipe, params: Params) -> JSON:
    """What SFTConfig has beyond TrainingArguments."""
    packing = PACKING[params.packing]
    packed = {"packing": True, "packing_strategy": packing} if packing else {"packing": False}
    return {
        "max_length": recipe.max_length,
        "completion_only_loss": False,  # labels are made already
        "assistant_only_loss": False,
        "loss_type": "nll",
        "padding_free": False,
        "pad_to_multiple_of": None,
        "activation_offloading": False,
        "router_aux_loss_coef": None,
        "shuffle_dataset": packing is not None,
        **packed,
    }
