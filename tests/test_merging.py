"""A start model that is an adapter: whole weights before training, and what stands on them."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from transformers import AutoModelForCausalLM  # noqa: E402

from harness.trainer import START, read_recipe  # noqa: E402
from harness.types import Lora, ModelSpec  # noqa: E402
from tests.training import TINY, tiny_lora, tiny_tokenizer, training_folder  # noqa: E402
from trainers import merging  # noqa: E402


def test_an_adapter_is_merged_and_training_reads_the_merged_model(tmp_path: Path) -> None:
    adapted = tiny_lora().eval()
    adapted.save_pretrained(tmp_path / "adapter")
    folder = training_folder(
        tmp_path / "run", "dpo", [], adapter=str(tmp_path / "adapter"), lora=Lora(rank=4)
    )
    assert read_recipe(folder).model_path == str(TINY)
    merging.main(folder)
    recipe = read_recipe(folder)
    assert (recipe.model_path, recipe.adapter) == (str(folder / START), None)
    whole = AutoModelForCausalLM.from_pretrained(recipe.model_path).eval()
    ids = torch.tensor([tiny_tokenizer()("2+2=")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
        plain = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
        assert (plain(ids).logits - whole(ids).logits).abs().max() > 0.01
    assert tiny_tokenizer().get_vocab() == merging.load_tokenizer(recipe).get_vocab()


def test_a_recipe_of_an_adapter_names_it_beside_its_base() -> None:
    from harness import recipes

    spec = ModelSpec(name="Sft", path=str(TINY), adapter="/adapters/sft")
    recipe = recipes.read("tiny_dpo", {}).resolved(spec)
    assert (recipe.model, recipe.model_path, recipe.adapter) == ("Sft", str(TINY), "/adapters/sft")
