"""How the methods that learn from pairs of answers are put together: dpo, dpo_norm."""

from __future__ import annotations

from pathlib import Path

from trl import DPOConfig

from harness.trainer import Trainer, read_params, read_recipe
from harness.types import JSON, Recipe
from trainers.arguments import training_arguments
from trainers.loading import load_model, load_tokenizer
from trainers.pair_trainer import PairTrainer
from trainers.preferences import PairCollator, tokenized_pairs
from trainers.running import train
from trainers.token_training import load_start_model
from trainers.watching import Watcher


def train_pairs(folder: Path, trainer: Trainer, *, normalise: bool) -> None:
    recipe = read_recipe(folder)
    params = read_params(recipe, trainer)
    tokenizer = load_tokenizer(recipe)
    dataset = tokenized_pairs(folder, recipe, tokenizer)
    config = DPOConfig(**training_arguments(recipe, folder), **settings(recipe), beta=params.beta)
    train(
        PairTrainer(
            normalise=normalise,
            label_smoothing=params.label_smoothing,
            model=load_model(recipe, tokenizer),
            ref_model=None if recipe.lora is not None else load_start_model(recipe),
            args=config,
            train_dataset=dataset,
            data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id),
            processing_class=tokenizer,
            callbacks=[Watcher(folder)],
        ),
        recipe,
        folder,
    )


def settings(recipe: Recipe) -> JSON:
    """What DPOConfig has beyond TrainingArguments."""
    return {
        "loss_type": ["sigmoid"],  # computed by PairTrainer
        "max_length": None,  # tokens are cut already
        "precompute_ref_log_probs": False,
        "padding_free": False,
        "pad_to_multiple_of": None,
        "activation_offloading": False,
        "router_aux_loss_coef": None,
        # The policy's own dropout would be noise in its ratio to the reference.
        "disable_dropout": recipe.lora is None or recipe.lora.dropout == 0,
    }
