"""Trainings that are killed go on from their last checkpoint and end as unbroken ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors.torch import load_file

from harness import training_process as process
from harness.trainer import CHECKPOINT, CHECKPOINTS, read_recipe
from harness.training_process import Meeting
from harness.types import JSON
from tests import rl_parts
from tests.training import (
    REPOSITORY,
    measures,
    rightly_and_wrongly,
    train_in_processes,
    training_folder,
    word_problems,
)
from trainers.checkpoints import last_checkpoint

STEPS, EVERY = 12, 4
MEASURES = ("loss", "grad_norm", "learning_rate", "kl", "rewards/margins", "reward")


def folder_of(place: Path, method: str) -> Path:
    options: JSON = {"max_steps": STEPS, "save_steps": EVERY, "keep_checkpoints": 1}
    optimizer = {"learning_rate": 1e-3, "schedule": "linear", "warmup_ratio": 0.2}
    if method == "grpo":
        examples = rl_parts.problem_lines(8)
        params = {**rl_parts.PARAMS, "max_tokens": 16, "num_generations": 4}
        return training_folder(place, method, examples, params=params, **options)
    data = rightly_and_wrongly if method == "dpo" else word_problems
    return training_folder(place, method, data(40), optimizer=optimizer, **options)


def kill_after_a_checkpoint(folder: Path, method: str) -> None:
    command = [sys.executable, "-m", f"trainers.{method}", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    while last_checkpoint(folder) is None and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert last_checkpoint(folder) is not None, (folder / "log").read_text()[-2000:]
    assert not (folder / CHECKPOINT).exists()


@pytest.mark.slow
def test_two_processes_go_on_from_their_checkpoint(tmp_path: Path) -> None:
    options: JSON = {"max_steps": 4, "save_steps": 2, "launcher": "ddp", "num_processes": 2}
    whole, broken = (
        training_folder(tmp_path / name, "sft", word_problems(16), micro_batch_size=4, **options)
        for name in ("whole", "broken")
    )
    for folder in (whole, broken):
        if folder is broken:
            shutil.copytree(
                whole / CHECKPOINTS / "checkpoint-2", broken / CHECKPOINTS / "checkpoint-2"
            )
        process.train(read_recipe(folder), folder, Meeting(), hold=(), tell=lambda step: None)
    assert measures(broken)["loss"] == measures(whole)["loss"][2:]
    ours, unbroken = (load_file(one / CHECKPOINT / "model.safetensors") for one in (broken, whole))
    for name, tensor in unbroken.items():
        assert tensor.equal(ours[name]), name


@pytest.mark.long
def test_killed_trainings_go_on_and_end_as_unbroken_ones(tmp_path: Path) -> None:
    methods = ("asft", "dpo", "grpo")
    for method in methods:
        kill_after_a_checkpoint(folder_of(tmp_path / f"broken_{method}", method), method)
        folder_of(tmp_path / f"whole_{method}", method)
    folders = [tmp_path / f"{kind}_{method}" for method in methods for kind in ("broken", "whole")]
    train_in_processes(*folders)
    for method in methods:
        broken, whole = (tmp_path / f"{kind}_{method}" for kind in ("broken", "whole"))
        curves = [measures(folder) for folder in (broken, whole)]
        for name in MEASURES:
            assert curves[0].get(name) == curves[1].get(name), (method, name)
        assert len(curves[1]["loss"]) == STEPS
        weights = [
            load_file(folder / CHECKPOINT / "model.safetensors") for folder in (broken, whole)
        ]
        for name, tensor in weights[1].items():
            assert tensor.equal(weights[0][name]), (method, name)
