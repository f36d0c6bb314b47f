"""Checkpoints that are evaluated while the training runs: each once, whatever happens between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoint_folder import write_checkpoint
from typer.testing import CliRunner

from harness import models, runs, store
from harness.cli.app import app
from harness.errors import UsageError
from harness.evaluate import Options as Evaluation
from harness.midway import EVALUATED, Midway, evaluated, spare_gpu
from harness.pipeline import Options, train_then_eval
from harness.registry import task
from harness.session import Silent
from harness.stages import Stages
from harness.trainer import CHECKPOINTS, EVALUATE, SNAPSHOTS
from harness.types import Optimizer, Recipe, Run, recipe_from_json, to_json
from trainers.snapshots import Snapshots

RECIPE = Recipe(method="sft", model="Base", model_path="", optimizer=Optimizer(learning_rate=1.0))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    models.add("Base", {"path": str(write_checkpoint(tmp_path / "base"))}, tmp_path, replace=False)
    return tmp_path


def training(home: Path) -> Run:
    run = Run(run_id="a-train-Base-mine", kind="train", status="running", model="Base")
    (runs.folder_of(home, run.run_id)).mkdir(parents=True)
    return runs.write_manifest(home, run)


def midway(home: Path) -> Midway:
    stages = Stages(
        model="mine",
        base=models.model("Base", home),
        domain=(task("arithmetic"),),
        outside=(),
        gates=(),
        steps=9,
        evaluate=(2, 4),
    )
    asked = Evaluation(engine="mock", limit=4, home=home)
    return Midway(home, stages, asked, Silent())


def offered(home: Path, run: Run, step: int) -> Path:
    return write_checkpoint(runs.folder_of(home, run.run_id) / SNAPSHOTS / f"checkpoint-{step}")


def ordered(home: Path, run: Run) -> object:
    return json.loads((runs.folder_of(home, run.run_id) / EVALUATE).read_text())


def test_a_snapshot_is_evaluated_once_and_stands_among_the_steps(home: Path) -> None:
    run, beside = training(home), midway(home)
    beside.begin(run, RECIPE)
    assert ordered(home, run) == {"steps": [2, 4], "wait": True}
    snapshot = offered(home, run, 2)
    beside.look(run)
    beside.look(run)
    assert (snapshot.exists(), snapshot.with_name("checkpoint-2.done").exists()) == (False, True)
    assert [(run.model, run.status) for run in evaluated(home, run)[2]] == [("mine@2", "done")]
    runs.write_manifest(home, run)
    found = store.query(home, "SELECT step, metric FROM steps")[1]
    assert found == [(2, "eval/arithmetic")]


def test_what_a_killed_command_left_is_evaluated_before_the_training_goes_on(home: Path) -> None:
    run = training(home)
    offered(home, run, 2)
    midway(home).begin(run, RECIPE)
    assert ordered(home, run) == {"steps": [4], "wait": True}
    again = offered(home, run, 2)
    before = len(runs.run_folders(home))
    midway(home).look(run)
    assert (again.exists(), len(runs.run_folders(home))) == (False, before)


def test_a_trainer_puts_the_weights_aside_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / EVALUATE).write_text(json.dumps({"steps": [2], "wait": False}))
    checkpoint = tmp_path / CHECKPOINTS / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "optimizer.pt", "whole-0-of-1"):
        (checkpoint / name).write_text(name)
    snapshots = Snapshots(tmp_path)
    assert [snapshots.due(0, 1), snapshots.due(1, 3), snapshots.due(2, 4)] == [False, True, False]
    snapshots.offer(2)
    found = sorted(path.name for path in (tmp_path / SNAPSHOTS / "checkpoint-2").iterdir())
    assert found == ["config.json", "model.safetensors"]


def test_a_trainer_that_waits_goes_on_when_the_evaluation_is_done(tmp_path: Path) -> None:
    (tmp_path / EVALUATE).write_text(json.dumps({"steps": [2], "wait": True}))
    done = tmp_path / SNAPSHOTS / "checkpoint-2.done"
    done.parent.mkdir()
    done.touch()
    assert Snapshots(tmp_path).offer(2) < 60


@pytest.mark.parametrize(
    ("visible", "device", "processes", "spare"),
    [
        ("", "auto", 1, None),
        ("0", "cuda", 1, None),
        ("4,6", "cuda", 1, "6"),
        ("0,1,2", "cuda", 2, "2"),
        ("3", "cpu", 4, "3"),
    ],
)
def test_the_first_gpu_that_the_training_leaves_is_taken(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: str, processes: int, spare: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    recipe = recipe_from_json({**to_json(RECIPE), "num_processes": processes, "device": device})
    assert spare_gpu(recipe) == spare


@pytest.mark.long
def test_a_real_training_is_evaluated_on_the_way(home: Path) -> None:
    settings = {"max_steps": "6", "evaluate_at": "[2]", "evaluate_steps": "4", "save_steps": "0"}
    asked = Options(settings=settings, evaluation=Evaluation(home=home, limit=20))
    done = train_then_eval("tiny_sft", asked)
    assert [(one.model, one.step) for one in done.points] == [
        ("tiny_sft@2", 2),
        ("tiny_sft@4", 4),
        ("tiny_sft", None),
    ]
    assert done.trained is not None
    folder = runs.folder_of(home, done.trained.run_id)
    assert sorted(json.loads((folder / EVALUATED).read_text())) == ["2", "4"]
    shown = CliRunner().invoke(app, ["runs", "show", done.trained.run_id, "--home", str(home)])
    assert "eval/arithmetic at 3 step(s)" in shown.stdout


@pytest.mark.slow
def test_steps_that_never_come_are_refused_before_the_first_stage(home: Path) -> None:
    asked = Options(
        settings={"max_steps": "6", "evaluate_at": "[9]"}, evaluation=Evaluation(home=home)
    )
    with pytest.raises(UsageError, match="`evaluate_at: 9`: the training has 6 steps"):
        train_then_eval("tiny_sft", asked)
    assert runs.run_folders(home) == []
