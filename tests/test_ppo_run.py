"""PPO as it is started: from a folder, on one process or two, and on from a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import transformers

from harness.types import Lora
from tests import rl_parts
from trainers.checkpoints import last_checkpoint
from trainers.ppo_run import STATE, train

MEASURES = (
    *("reward", "reward_format", "reward_answer", "kl", "kl_coef", "entropy", "response_length"),
    *("truncated", "explained_variance", "loss", "policy_loss", "value_loss", "clip_fraction"),
    *("grad_norm", "learning_rate"),
)
REPOSITORY = Path(__file__).resolve().parent.parent


def command(folder: Path, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    program = ["-m", "trainers.ppo", str(folder)]
    return [sys.executable, *(launcher if processes > 1 else []), *program]


def start(folder: Path, processes: int = 1) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    log = (folder / "log").open("ab")
    return subprocess.Popen(
        command(folder, processes), cwd=REPOSITORY, env=environment, stdout=log, stderr=log
    )


def weights(folder: Path) -> dict[str, Any]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    recipe = rl_parts.recipe("ppo", max_steps=8, save_steps=2, keep_checkpoints=2)
    whole = rl_parts.prepared(tmp_path / "whole", recipe)
    train(whole)
    broken = rl_parts.prepared(tmp_path / "broken", recipe)
    process = start(broken)
    while last_checkpoint(broken) is None and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = last_checkpoint(broken)
    assert reached is not None
    assert not (broken / "checkpoint").exists()
    train(broken)
    expected = weights(whole / "checkpoint")
    for name, tensor in weights(broken / "checkpoint").items():
        assert tensor.equal(expected[name]), name
    assert [path.name for path in sorted((broken / "checkpoints").iterdir())] == [
        "checkpoint-6",
        "checkpoint-8",
    ]
    for name in MEASURES:
        assert rl_parts.measured(broken, name) == rl_parts.measured(whole, name), name
        assert [step for step, _ in rl_parts.measured(broken, name)] == [2, 4, 6, 8]
    loads_and_differs_from_the_start(broken / "checkpoint")
    loads_and_differs_from_the_start(broken / "checkpoints" / "checkpoint-8")
    assert not (broken / "checkpoint" / STATE).exists()


def loads_and_differs_from_the_start(checkpoint: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    start = rl_parts.model()
    assert not model.model.norm.weight.equal(start.model.norm.weight)
    assert transformers.AutoTokenizer.from_pretrained(checkpoint).encode("ab")


@pytest.mark.slow
def test_under_lora_adapters_are_saved_and_gone_on_from(tmp_path: Path) -> None:
    recipe = rl_parts.recipe("ppo", max_steps=4, save_steps=2, lora=Lora(rank=4, alpha=8))
    whole = rl_parts.prepared(tmp_path / "whole", recipe)
    train(whole)
    broken = rl_parts.prepared(tmp_path / "broken", recipe)
    shutil.copytree(whole / "checkpoints" / "checkpoint-2", broken / "checkpoints" / "checkpoint-2")
    train(broken)
    expected = adapters(whole / "checkpoint")
    for name, tensor in adapters(broken / "checkpoint").items():
        assert tensor.equal(expected[name]), name
    assert any(bool(tensor.any()) for name, tensor in expected.items() if "lora_B" in name)
    assert [step for step, _ in rl_parts.measured(broken, "kl")] == [4]


def adapters(folder: Path) -> dict[str, Any]:
    return safetensors.torch.load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_two_processes_learn_from_one_round_together(tmp_path: Path) -> None:
    recipe = rl_parts.recipe(
        "ppo", max_steps=4, launcher="ddp", num_processes=2, micro_batch_size=2
    )
    folder = rl_parts.prepared(tmp_path / "run", recipe)
    status = start(folder, processes=2).wait()
    assert status == 0, (folder / "log").read_text()[-3000:]
    assert [step for step, _ in rl_parts.measured(folder, "reward")] == [2, 4]
    assert not weights(folder / "checkpoint")["model.norm.weight"].equal(
        rl_parts.model().model.norm.weight
    )
