"""One step of GRPO and of PPO on a GPU, with a random Llama of a billion parameters in bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.types import Lora, Recipe
from tests import rl_parts
from tests.training import write_billion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_billion(folder)
    return folder


def trained(recipe: Recipe, folder: Path) -> Path:
    from trainers import grpo, ppo

    (grpo if recipe.method == "grpo" else ppo).main(rl_parts.prepared(folder, recipe))
    return folder


def recipe(method: str, llama: Path, **changes: Any) -> Recipe:
    settings = {"model_path": str(llama), "precision": "bf16", "device": "cuda", "max_steps": 1}
    return rl_parts.recipe(method, **settings | {"gradient_checkpointing": True} | changes)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
@pytest.mark.parametrize("lora", [None, Lora(rank=8, alpha=16)])
def test_a_step_in_bf16_is_finite_and_says_what_it_costs(
    method: str, lora: Lora | None, llama: Path, tmp_path: Path
) -> None:
    folder = trained(recipe(method, llama, lora=lora), tmp_path)
    for name in ("memory_bytes", "tokens_per_second"):
        ((step, value),) = rl_parts.measured(folder, name)
        print(f"{method} {name} {value:,.0f}")
        assert (step, value > 0) == (1, True)
    ((_, entropy),) = rl_parts.measured(folder, "entropy")
    assert 0 < entropy < 12


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_step_on_4_bit_weights_moves_the_adapters(
    method: str, llama: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    lora = Lora(rank=8, alpha=16, quantization="4bit")
    trained(recipe(method, llama, lora=lora), tmp_path)
    assert (tmp_path / "checkpoint" / "adapter_config.json").exists()
