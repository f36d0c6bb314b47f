"""One step of GRPO and of PPO on a GPU, with a random Llama of a billion parameters in bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from harness.trainer import RECIPE, TRAIN
from harness.types import Lora, Recipe, to_json
from tests import rl_parts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of Llama 3.2 1B, with the tokenizer of Tiny."""
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    rl_parts.tokenizer().save_pretrained(folder)
    return folder


def measures(recipe: Recipe, folder: Path) -> dict[str, float]:
    """What the last step of a training measured."""
    from trainers import grpo, ppo

    (folder / RECIPE).write_text(json.dumps(to_json(recipe)), encoding="utf-8")
    lines = [
        json.dumps({"prompt": sample.input, "sample": to_json(sample)})
        for sample in rl_parts.short_samples(8)
    ]
    (folder / TRAIN).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (grpo if recipe.method == "grpo" else ppo).main(folder)
    read = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return {line["metric"]: line["value"] for line in read}


def recipe(method: str, llama: Path, **changes: Any) -> Recipe:
    settings = {"model_path": str(llama), "precision": "bf16", "device": "cuda", "max_steps": 1}
    return rl_parts.recipe(method, **settings | {"gradient_checkpointing": True} | changes)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
@pytest.mark.parametrize("lora", [None, Lora(rank=8, alpha=16)])
def test_a_step_in_bf16_is_finite_and_says_what_it_costs(
    method: str, lora: Lora | None, llama: Path, tmp_path: Path
) -> None:
    found = measures(recipe(method, llama, lora=lora), tmp_path)
    print({name: found[name] for name in ("tokens_per_second", "memory_bytes") if name in found})
    assert found["memory_bytes"] > 0
    assert 0 < found["entropy"] < 12


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_step_on_4_bit_weights_moves_the_adapters(
    method: str, llama: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    lora = Lora(rank=8, alpha=16, quantization="4bit")
    measures(recipe(method, llama, lora=lora), tmp_path)
    assert (tmp_path / "checkpoint" / "adapter_config.json").exists()
