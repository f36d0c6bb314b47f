"""From a recipe to a verdict, with a program as trainer and the mock engine."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint
from pipeline_recipe import ASK, ASK_ARGUMENTS, FAILS, QUESTIONS, prepare, recipe
from typer.testing import CliRunner

from harness import models, pipeline, runs, store
from harness.cli.app import app
from harness.errors import BenchError, UsageError
from harness.evaluate import Options as Evaluation
from harness.pipeline import Options, Outcome, train_then_eval
from harness.types import JSON


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch)


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
        ({"gates": ["better(gsm8k)"]}, {}, "this evaluation will not measure `gsm8k`"),
        ({}, {"gates": ("kept(arithmetic)",)}, "has no `kept` of `arithmetic`"),
        ({}, {"gates": ("delta(arithmetic)",)}, "is a number, not yes or no"),
        ({"evaluate_at": [1]}, {}, "a program of its own cannot be asked for checkpoints"),
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
    asked = [*ASK_ARGUMENTS, "--home", str(home), *arguments]
    return CliRunner().invoke(app, ["train-then-eval", name, *asked])


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


def test_gates_decide_whether_the_exit_status_is_3(home: Path) -> None:
    recipe(home, gates=["better(arithmetic) and delta(arithmetic) >= 0.5"])
    held = command(home, "--json")
    assert (held.exit_code, json.loads(held.stdout)["passed"]) == (0, True)
    failed = command(home, "--gate", "value(arithmetic) < 1", "--json")
    assert failed.exit_code == 3
    found = json.loads(failed.stdout)
    assert [(one["text"], one["holds"]) for one in found["gates"]] == [
        ("better(arithmetic) and delta(arithmetic) >= 0.5", True),
        ("value(arithmetic) < 1", False),
    ]
    assert found["gates"][1]["evidence"] == {"value(arithmetic)": 1.0}


def test_a_dry_run_checks_everything_and_starts_nothing(home: Path) -> None:
    done = command(home, "--dry-run", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["base"], found["model"], found["steps"]) == ("Base", "mine", 2)
    assert runs.run_folders(home) == []


def test_the_same_command_twice_at_once_is_refused(home: Path) -> None:
    run(home, recipe(home))
    (place,) = runs.runs_folder(home).glob(".pipeline-*.lock")
    before = len(runs.run_folders(home))
    with place.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="`mine` is being trained and evaluated by process"):
            run(home, recipe(home))
    assert len(runs.run_folders(home)) == before
