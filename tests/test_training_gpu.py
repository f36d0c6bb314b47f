"""bf16 steps of a model of a billion random weights on a GPU: speed and memory are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")


from tests.training import (  # noqa: E402
    rightly_and_wrongly,
    train_in_processes,
    training_folder,
    word_problems,
    write_billion,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of about 1.2 billion random weights with a vocabulary of 128,256."""
    folder = tmp_path_factory.mktemp("billion")
    write_billion(folder)
    return folder


@pytest.mark.parametrize("method", ["sft", "asft", "dpo"])
def test_steps_in_bf16_lower_the_loss_and_tell_their_speed(
    tmp_path: Path, billion: Path, method: str
) -> None:
    data: Any = rightly_and_wrongly if method == "dpo" else word_problems
    folder = training_folder(
        tmp_path / method,
        method,
        data(64),
        model_path=str(billion),
        device="cuda",
        precision="bf16",
        max_steps=6,
        optimizer={"learning_rate": 2e-5, "schedule": "constant"},
    )
    (curve,) = train_in_processes(folder)
    assert curve["loss"][-1] < curve["loss"][0]
    assert min(curve["tokens_per_second"]) > 0
    assert max(curve["memory_bytes"]) < 40 * 2**30
    figures = {name: curve[name][-1] for name in ("tokens_per_second", "memory_bytes")}
    print(json.dumps({"method": method, **figures}))
