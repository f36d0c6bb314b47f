"""The start model of a training, where the registry has it as an adapter: whole weights again.

    python -m trainers.merging FOLDER

start/   out: base and adapter in one, in the precision that the training holds weights in

What is trained next, a second adapter among it, then has one model below it under every method,
launcher and reference, and is evaluated on that model.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.trainer import START, read_recipe
from trainers.loading import held_in, load_tokenizer, where
from trainers.running import run


def main(folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = read_recipe(folder)
    assert recipe.adapter is not None
    base = AutoModelForCausalLM.from_pretrained(
        recipe.model_path, dtype=held_in(recipe), **where(recipe)
    )
    whole = PeftModel.from_pretrained(base, recipe.adapter).merge_and_unload(safe_merge=True)
    draft = folder / f".{START}"
    shutil.rmtree(draft, ignore_errors=True)
    whole.save_pretrained(draft)
    load_tokenizer(recipe).save_pretrained(draft)
    draft.rename(folder / START)


if __name__ == "__main__":
    run(main)
