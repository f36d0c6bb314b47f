"""From a recipe to a verdict, with a program as trainer and the mock engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint
from typer.testing import CliRunner

from harness import models, pipeline, runs, store
from harness.cli.app import app
from harness.errors import BenchError, UsageError
from harness.evaluate import Options as Evaluation
from harness.pipeline import Options, Outcome, train_then_eval
from harness.types import JSON

# Leaves a checkpoint with other weights, and one on the way at step 1.
PROGRAM = """
import json, pathlib, shutil, sys
folder, model = map(pathlib.Path, sys.argv[1:3])
for target, weights in (("checkpoints/checkpoint-1", "w1"), ("checkpoint", "w2")):
    shutil.copytree(model, folder / target)
    (folder / target / "generation_config.json").write_text(json.dumps({"of": weights}))
print("step 1 loss 2.0", "step 2 loss 1.0", sep="\\n")
"""
FAILS = "import sys; print('CUDA out of memory'); sys.exit(1)"

QUESTIONS = 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("BENCH_HOME", str(place))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("AFTER", "right")
    models.add("Base", {"path": str(write_checkpoint(tmp_path / "base"))}, place, replace=False)
    return place


def recipe(home: Path, program: str = PROGRAM, **changes: Any) -> str:
    data = home / "train.jsonl"
    data.write_text('{"prompt": "Say four.", "completion": "four"}\n')
    values: JSON = {
        "method": "command",
        "model": "Base",
        "device": "cpu",
        "precision": "fp32",
        "tasks": ["arithmetic"],
        "data": {"sources": [{"path": str(data)}], "template": "question_only"},
        "optimizer": {"learning_rate": 1e-3},
        "max_steps": 2,
        "params": {
            "command": [sys.executable, "-c", program, "{folder}", "{model}"],
            "step_pattern": r"step (?P<step>\d+) loss (?P<loss>\S+)",
        },
        **changes,
    }
    path = home / "mine.yaml"
    path.write_text(json.dumps(values))
    return str(path)


ASK: JSON = {
    "engine": "mock",
    "limit": QUESTIONS,
    "settings": {"answers": "pipeline_answers:answer"},
}


def run(home: Path, name: str, **changes: Any) -> Outcome:
    return train_then_eval(name, Options(evaluation=Evaluation(home=home, **ASK), **changes))


def test_one_command_leads_from_a_recipe_to_a_verdict(home: Path) -> None:
    done = run(home, recipe(home))
    assert done.failed == ""
    (found,) = done.comparison
    assert (found.base, found.tuned, found.verdict) == (0.5, 1.0, "better")
    assert done.sentences[0] == (
        f"The tuned model is better on arithmetic (+50.0 points, {QUESTIONS} questions)."
    )
    assert [(point.model, point.step) for point in done.points] == [("mine@1", 1), ("mine", None)]


def test_repeating_the_command_repeats_no_stage(home: Path) -> None:
    first, second = (run(home, recipe(home)) for _ in range(2))
    assert pipeline.as_json(home, first) == pipeline.as_json(home, second)
    assert len(runs.run_folders(home)) == 4


def test_every_stage_is_linked_in_the_history(home: Path) -> None:
    done = run(home, recipe(home))
    assert done.trained is not None
    _, rows = store.query(
        home, "SELECT base, model, train_run FROM lineage WHERE model = 'mine' LIMIT 1"
    )
    assert rows == [("Base", "mine", done.trained.run_id)]
    _, notes = store.query(home, "SELECT notes FROM runs WHERE model = 'mine@1'")
    assert notes == [(f"trained by {done.trained.run_id}",)]
    curve = "SELECT step, value FROM steps WHERE metric = 'eval/arithmetic' ORDER BY step"
    assert store.query(home, curve)[1] == [(1, 1.0), (2, 1.0)]
    run(home, recipe(home))
    assert len(store.query(home, curve)[1]) == 2


def test_a_failed_training_leaves_the_base_and_the_failure(home: Path) -> None:
    done = run(home, recipe(home, FAILS))
    assert [one.status for one in done.base] == ["done"]
    assert done.trained is not None
    assert done.trained.status == "failed"
    assert f"the training `{done.trained.run_id}` failed" in done.failed
    assert (done.points, done.comparison) == ((), ())


def test_tasks_outside_the_domain_are_judged_for_forgetting(home: Path) -> None:
    file = home / "other.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from harness.registry import task\n"
        'TASKS = (replace(task("arithmetic"), name="other"),)\n'
    )
    done = run(home, recipe(home), outside=(str(file),), checkpoints=False)
    assert [one.name for one in done.comparison] == ["arithmetic", "other"]
    (lost,) = done.outside
    assert (lost.name, lost.excluded) == ("other", True)
    assert done.sentences[1] == (
        "Outside the training domain a loss over 1 point is excluded on other."
    )


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"tasks": []}, {}, "names no task that the model will be judged on"),
        ({"tasks": ["arithmetik"]}, {}, "unknown task `arithmetik`"),
        ({}, {"outside": ("gsm9k",)}, "unknown task `gsm9k`"),
        ({"methd": "sft"}, {}, "unknown key `methd`"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_stage(
    home: Path, changes: JSON, options: JSON, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        run(home, recipe(home, **changes), **options)
    assert runs.run_folders(home) == []


def test_a_base_outside_the_registry_is_refused(home: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other")
    with pytest.raises(UsageError, match="is not in the model registry"):
        run(home, recipe(home, model=str(other)))
    assert runs.run_folders(home) == []


def test_no_room_for_checkpoints_is_told_before(home: Path, tmp_path: Path) -> None:
    shape = {"hidden_size": 65536, "num_hidden_layers": 900, "vocab_size": 200_000}
    big = write_checkpoint(tmp_path / "big", num_attention_heads=64, **shape)
    models.add("Big", {"path": str(big)}, home, replace=False)
    with pytest.raises(UsageError, match="the checkpoints need about"):
        run(home, recipe(home, model="Big"))


def command(home: Path, *arguments: str) -> Any:
    name = recipe(home) if not (home / "mine.yaml").exists() else str(home / "mine.yaml")
    given = ["--engine", "mock", "--engine-set", "answers=pipeline_answers:answer"]
    limit = ["--limit", str(QUESTIONS), "--home", str(home)]
    return CliRunner().invoke(app, ["train-then-eval", name, *given, *limit, *arguments])


def test_the_command_prints_json_and_writes_a_report(home: Path) -> None:
    done = command(home, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["train"]["status"], found["train"]["model"]) == ("done", "mine")
    assert [one["verdict"] for one in found["comparison"]] == ["better"]
    report = Path(found["report"]).read_text(encoding="utf-8")
    assert report.startswith("# mine: did the fine-tune help?\n\nThe tuned model is better")
    assert "| arithmetic | strict_match | 40 |" in report


def test_a_model_that_got_worse_ends_with_3(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTER", "wrong")
    done = command(home)
    assert done.exit_code == 3
    assert done.stdout.startswith("The tuned model is worse on arithmetic")


def test_a_failed_training_ends_with_1_and_is_in_the_report(home: Path) -> None:
    recipe(home, FAILS)
    done = command(home, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["train"]["status"], found["comparison"]) == ("failed", [])
    assert "**Not finished:** the training" in Path(found["report"]).read_text(encoding="utf-8")
