"""Training runs as a user starts them: real TRL on Tiny, real programs, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import models, runs, store
from harness.errors import DataError, UsageError
from harness.launch import explain
from harness.train import result_json, train_recipe
from harness.trainer import CHECKPOINT, CHECKPOINTS
from harness.training_plan import Options, preview
from harness.training_process import StepReader
from harness.types import Run

BRIEF = {"max_steps": "6", "save_steps": "2", "micro_batch_size": "8", "global_batch_size": "8"}


def trained(home: Path, recipe: str, register: str | None = None, **settings: str) -> Run:
    return train_recipe(recipe, Options(settings=settings, register=register, home=home))


def program(home: Path, script: str) -> Run:
    return train_recipe(
        "tiny_command",
        Options(settings={"params.command": f"[sh, -c, {script!r}]"}, home=home, fresh=True),
    )


def test_any_program_that_leaves_a_checkpoint_is_a_trainer(tmp_path: Path) -> None:
    run = trained(tmp_path, "tiny_command", register="Copy")
    folder = runs.folder_of(tmp_path, run.run_id)
    assert (run.status, run.cause) == ("done", None)
    assert StepReader(folder).new() == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.5}]
    assert run.flags == ("not_trained=loss_not_moved",)
    assert result_json(tmp_path, run, "Copy") == {
        "run_id": run.run_id,
        "status": "done",
        "cause": None,
        "checkpoint": str(folder / CHECKPOINT),
        "steps": 2,
        "model": "Copy",
    }
    copy = models.model("Copy", tmp_path)
    assert (copy.path, copy.parent, copy.run) == (
        str(folder / CHECKPOINT),
        "Tiny/base",
        run.run_id,
    )


def test_a_training_is_in_the_history_with_its_steps_and_as_asked(tmp_path: Path) -> None:
    run = trained(tmp_path, "tiny_command")
    _, rows = store.query(
        tmp_path,
        "SELECT kind, recipe->>'$.name', recipe->>'$.resolved.method', count(value) FROM runs "
        "JOIN steps USING (run_id) GROUP BY ALL",
    )
    assert rows == [("train", "tiny_command", "command", 2)]
    assert run.recipe is not None
    assert run.recipe["asked"]["device"] == "cpu"


def test_a_pass_over_prompts_takes_a_step_for_each_batch_of_completions(tmp_path: Path) -> None:
    """16 prompts, 8 completions of each, 64 completions to a step."""
    settings = {"max_steps": "null", "epochs": "1"}
    planned = preview("tiny_grpo", Options(settings=settings, home=tmp_path))
    assert (planned["check"]["kept"], planned["steps"]) == (16, 2)


def test_a_training_that_is_done_is_not_repeated(tmp_path: Path) -> None:
    first, second = (trained(tmp_path, "tiny_command") for _ in range(2))
    assert first.run_id == second.run_id


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("echo torch.OutOfMemoryError: CUDA out of memory; exit 1", "out_of_memory"),
        ("echo OSError: [Errno 28] No space left on device; exit 1", "disk_full"),
        ("kill -9 $$", "killed"),
        ("echo all is well", "no_checkpoint"),
    ],
)
def test_a_program_that_fails_leaves_its_cause(tmp_path: Path, script: str, cause: str) -> None:
    run = program(tmp_path, script)
    assert (run.status, run.cause) == ("failed", cause)
    assert run.error


def test_a_program_that_is_not_there_is_an_import_error(tmp_path: Path) -> None:
    run = trained(tmp_path, "tiny_command", **{"params.command": "[no-such-program]"})
    assert (run.status, run.cause) == ("failed", "import_error")


def test_training_on_the_questions_of_a_test_is_refused_or_kept_in_the_history(
    tmp_path: Path,
) -> None:
    asked = {"tasks": "[arithmetic]", "data.sources.0.path": "tunebench:arithmetic.jsonl"}
    asked |= {"data.sources.0.split": "test", "data.template": "question_only"}
    with pytest.raises(DataError, match="the training data hold 20 question"):
        trained(tmp_path, "tiny_command", **asked)
    assert runs.run_folders(tmp_path) == []
    run = trained(tmp_path, "tiny_command", **asked, **{"data.overlap": "allow"})
    assert run.flags[:2] == ("overlap=20", "template_mismatch=arithmetic")
    counted = "SELECT task, kind, count(*) FROM overlap GROUP BY ALL"
    assert store.query(tmp_path, counted)[1] == [("arithmetic", "exact", 20)]


def test_a_run_of_another_process_is_not_trained_twice(tmp_path: Path) -> None:
    first = trained(tmp_path, "tiny_command")
    runs.write_manifest(tmp_path, replace(first, status="running"))
    held = runs.lock(runs.folder_of(tmp_path, first.run_id))
    assert held is not None
    try:
        with pytest.raises(UsageError, match="is being trained by another process"):
            trained(tmp_path, "tiny_command")
    finally:
        os.close(held)


def test_a_name_that_ships_with_tunebench_cannot_be_registered(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is in the model registry already"):
        trained(tmp_path, "tiny_command", register="Tiny")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("trainers.watching.NotFiniteLossError: the loss is nan at step 3", "nan_loss"),
        ("Exception: Current loss scale already at minimum - cannot", "loss_scale_underflow"),
        ("LossScaleUnderflowError: the gradients of 20 steps", "loss_scale_underflow"),
        ("RuntimeError: Expected all tensors to be on the same device, but", "device_mismatch"),
        ("[rank0]: Watchdog caught collective operation timeout: WorkNCCL", "collective_timeout"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "out_of_memory"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("ModuleNotFoundError: No module named 'trl'", "import_error"),
        ("traceback : Signal 9 (SIGKILL) received by PID 4711", "killed"),
    ],
)
def test_a_log_tells_the_cause_of_a_failure(tmp_path: Path, line: str, cause: str) -> None:
    log = tmp_path / "worker.log"
    log.write_text(f"step 1\n{line}\n")
    assert explain(1, log).cause == cause


def test_the_log_of_an_earlier_attempt_does_not_explain_a_later_one(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    since = log.stat().st_size
    with log.open("a") as file:
        file.write("ModuleNotFoundError: No module named 'trl'\n")
    assert explain(1, log, since).cause == "import_error"


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    start = "from harness.cli.app import main; main()"
    command = [sys.executable, "-c", start, "train", "tiny_sft", "--home", str(tmp_path / "a")]
    for key, value in BRIEF.items():
        command += ["--set", f"{key}={value}"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoints = f"runs/*/{CHECKPOINTS}/checkpoint-2/whole-0-of-1"
    while child.poll() is None and not list((tmp_path / "a").glob(checkpoints)):
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    killed = next(runs.read_all(tmp_path / "a"))
    after_kill = trained(tmp_path / "a", "tiny_sft", **BRIEF)
    whole = trained(tmp_path / "b", "tiny_sft", **BRIEF)
    assert after_kill.run_id == killed.run_id
    assert _steps(tmp_path / "a", after_kill) == _steps(tmp_path / "b", whole)
    weights = [
        load_file(runs.folder_of(tmp_path / home, run.run_id) / CHECKPOINT / "model.safetensors")
        for home, run in (("a", after_kill), ("b", whole))
    ]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[1])


def _steps(home: Path, run: Run) -> list[Any]:
    """Step and loss of each; times and memory differ."""
    steps = StepReader(runs.folder_of(home, run.run_id)).new()
    return [(step["step"], step["loss"], step["learning_rate"]) for step in steps]


@pytest.mark.slow
def test_two_processes_follow_the_loss_of_one(tmp_path: Path) -> None:
    one = {"max_steps": "2", "micro_batch_size": "8", "global_batch_size": "16", "save_steps": "0"}
    two = {**one, "launcher": "ddp", "num_processes": "2"}
    both = [trained(tmp_path, "tiny_sft", **settings) for settings in (one, two)]
    assert [run.status for run in both] == ["done", "done"]
    losses = [_steps(tmp_path, run) for run in both]
    for alone, together in zip(*losses, strict=True):
        assert together == pytest.approx(alone, abs=1e-3)
