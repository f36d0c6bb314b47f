"""Ladders: what is refused before the first stage, who decides, and what is kept of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint
from pipeline_recipe import ASK_ARGUMENTS, prepare, recipe
from typer.testing import CliRunner

from harness import ladder, ladder_recipe, models, recipes, rungs, runs, store
from harness.cli.app import app
from harness.errors import UsageError
from harness.evaluate import Options as Evaluation
from harness.stages import Options
from harness.types import JSON

PAIR: JSON = {
    "name": "pair",
    "compare": {"base": "Base", "tuned": "Other", "tasks": ["arithmetic"]},
    "success": "not worse(arithmetic) and delta(arithmetic) < 0.1",
}
FULL: JSON = {
    "name": "full",
    "set": {"max_steps": 2},
    "cost": {"hours": 2, "usd": 3.5},
    "success": "better(arithmetic)",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = prepare(tmp_path, monkeypatch)
    other = write_checkpoint(tmp_path / "other", vocab_size=9)
    models.add("Other", {"path": str(other)}, place, replace=False)
    return place


def climb(home: Path, *arguments: str, rungs: tuple[JSON, ...] = (PAIR, FULL)) -> Any:
    name = recipe(home, rungs=list(rungs))
    asked = [*ASK_ARGUMENTS, "--home", str(home), *arguments]
    return CliRunner().invoke(app, ["train-then-eval", name, *asked])


def decided(home: Path) -> list[tuple[object, ...]]:
    sql = "SELECT name, holds, decision, decided_by, next_rung, status, cause FROM ladders"
    return store.query(home, sql)[1]


def test_without_consent_it_stops_with_the_evidence_and_names_the_command(home: Path) -> None:
    done = climb(home)
    assert done.exit_code == 1  # CliRunner shows the error that `bench` turns into 2
    assert isinstance(done.exception, UsageError)
    assert "the next rung `full` takes 2.0 hours and $3.50" in done.exception.message
    assert "--yes` goes on" in done.exception.hint
    assert "delta(arithmetic) 0" in done.stdout
    assert decided(home) == [
        ("pair", True, "wait", "criterion", "full", "interrupted", "consent"),
    ]


def test_with_consent_it_climbs_to_the_top_and_asks_nothing_twice(home: Path) -> None:
    climb(home)
    before = {folder.name for folder in runs.run_folders(home)}
    done = climb(home, "--yes", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["decision"] == "top"
    assert decided(home) == [
        ("pair", True, "escalate", "--yes", "full", "done", None),
        ("full", True, "top", "criterion", "", "done", None),
    ]
    new = {folder.name for folder in runs.run_folders(home)} - before
    assert sorted(name.split("-")[1] for name in new) == ["eval", "eval", "train"]


def test_who_agreed_once_is_not_asked_again(home: Path) -> None:
    climb(home, "--yes")
    folders = runs.run_folders(home)
    assert climb(home).exit_code == 0
    assert runs.run_folders(home) == folders
    assert decided(home)[0][3] == "--yes"


def test_the_evidence_stands_in_the_history(home: Path) -> None:
    climb(home, "--yes")
    sql = "SELECT evidence ->> '$.\"better(arithmetic)\"', usd, len(run_ids) FROM ladders"
    assert store.query(home, f"{sql} WHERE name = 'full'")[1] == [("true", 3.5, 4)]


def test_a_criterion_that_does_not_hold_ends_the_climb_with_3(home: Path) -> None:
    low = {**PAIR, "success": "better(arithmetic)"}
    done = climb(home, "--yes", rungs=(low, FULL))
    assert done.exit_code == 3
    assert decided(home) == [("pair", False, "stop", "criterion", "", "done", None)]
    assert not any("-train-" in folder.name for folder in runs.run_folders(home))


def test_a_gate_of_a_training_must_hold_beside_the_criterion(home: Path) -> None:
    done = climb(home, "--from", "full", "--gate", "value(arithmetic) < 0.9", "--json")
    assert done.exit_code == 3
    (found,) = json.loads(done.stdout)["rungs"]
    assert (found["holds"], found["evidence"]) == (
        False,
        {"better(arithmetic)": True, "value(arithmetic) < 0.9": False},
    )


def test_a_climb_may_begin_at_a_later_rung(home: Path) -> None:
    done = climb(home, "--from", "full", rungs=({**PAIR, "success": "better(arithmetic)"}, FULL))
    assert done.exit_code == 0
    assert [row[0] for row in decided(home)] == ["full"]


def test_a_stage_that_fails_ends_the_climb_with_1(home: Path) -> None:
    fails = {**FULL, "set": {"params": {"command": ["false"]}}}
    done = climb(home, "--yes", rungs=(PAIR, fails))
    assert done.exit_code == 1
    assert store.query(home, "SELECT status, cause FROM runs WHERE kind = 'ladder'")[1] == [
        ("failed", "stage_failed")
    ]


@pytest.mark.parametrize(
    ("rung", "message"),
    [
        ({**FULL, "success": "better(gsm8k)"}, "the rung `full` will not measure `gsm8k`"),
        ({**FULL, "success": "monotone(arithmetic)"}, "has no `monotone` of `arithmetic`"),
        ({**FULL, "success": "delta(arithmetic)"}, "is a number, not yes or no"),
        ({**FULL, "success": "better(arithmetic"}, "cannot be read"),
        ({**FULL, "cost": {}}, "trains and says nothing of its cost"),
        ({**FULL, "cost": {"gpu": "Z80"}}, "unknown GPU `Z80`"),
        ({**FULL, "set": {"max_stepz": 2}}, "unknown key `max_stepz`"),
        ({**FULL, "set": {"model": "Nobody"}}, "unknown model `Nobody`"),
        ({**FULL, "sucess": "x"}, "unknown key `rungs."),
        ({"name": "idle", "success": "better(arithmetic)"}, "does nothing"),
        ({**FULL, "name": "pair"}, "two rungs `pair`"),
        ({**FULL, "train": [{"recipe": "tiny_sft", "register": "X"}]}, "it has `train` too"),
        (
            {"name": "sweep", "steer": {"model": "Base"}, "success": "monotone(aqi)"},
            "steering needs the pair",
        ),
        (
            {"name": "sweep", "steer": {"model": "Tiny", "mod": "full"}, "success": "rises(aqi)"},
            "unknown key `mod`",
        ),
        (
            {"name": "sweep", "steer": {"model": "Tiny", "mode": "x"}, "success": "rises(aqi)"},
            "`--mode x` is unknown",
        ),
    ],
)
def test_what_cannot_be_climbed_is_refused_before_the_first_stage(
    home: Path, rung: JSON, message: str
) -> None:
    done = climb(home, "--yes", rungs=(PAIR, rung))
    assert isinstance(done.exception, UsageError)
    assert message in done.exception.message
    assert runs.run_folders(home) == []


def test_a_ladder_is_climbed_by_one_command_at_a_time(home: Path) -> None:
    climb(home)
    (folder,) = [one for one in runs.run_folders(home) if "-ladder-" in one.name]
    held = runs.lock(folder)
    assert held is not None
    try:
        done = climb(home)
    finally:
        os.close(held)
    assert isinstance(done.exception, UsageError)
    assert "is being climbed by another process already" in done.exception.message


def test_other_commands_refuse_a_ladder_and_say_what_climbs_it(home: Path) -> None:
    with pytest.raises(UsageError, match="is a ladder") as error:
        recipes.read("tiny_ladder", {})
    assert "`bench train-then-eval tiny_ladder` climbs it" in error.value.hint
    assert recipes.read("tiny_ladder", {"rungs": ""}).shape.method == "sft"


def test_options_of_ladders_are_refused_where_there_are_no_rungs(home: Path) -> None:
    asked = ["train-then-eval", recipe(home), "--yes", "--home", str(home)]
    done = CliRunner().invoke(app, asked)
    assert isinstance(done.exception, UsageError)
    assert "has no rungs" in done.exception.message


@pytest.mark.parametrize("name", recipes.ladders())
def test_shipped_ladders_can_be_priced_and_their_criteria_measured(
    name: str, tmp_path: Path
) -> None:
    found = ladder_recipe.read(name, {})
    hours = [price.hours for price in rungs.prices(found, tmp_path, None)]
    assert hours[0] == 0.0
    assert hours == sorted(hours, key=lambda value: value or 0.0)
    last = found.steps[1:] if name == "dsteer_ladder" else found.steps
    rungs.check(last, (), tmp_path)


def test_a_sweep_in_the_words_of_criteria() -> None:
    curve = [(0.0, 1.0, 0.5), (0.5, 1.2, 0.4), (1.0, 1.5, 0.7)]
    points = [
        {
            "lambda": strength,
            "control": "none",
            "separation": value,
            "silhouette": silhouette,
            "probe_auc": None,
        }
        for strength, value, silhouette in curve
    ]
    facts = ladder.sweep_facts(
        {
            "points": [*points, {**points[0], "control": "random-1"}],
            "difference": {"value": 0.5, "ci_low": 0.1, "ci_high": 0.9},
            "trend_p": 0.01,
            "monotone": True,
            "verdict": "rises",
        }
    )
    assert facts["aqi"] == {
        "base": 1.0,
        "value": 1.5,
        "delta": 0.5,
        "low": 0.1,
        "high": 0.9,
        "p": 0.01,
        "monotone": True,
        "rises": True,
    }
    assert facts["silhouette"]["monotone"] is False
    assert "probe_auc" not in facts


@pytest.mark.long
def test_the_tiny_ladder_is_climbed_to_its_top(tmp_path: Path) -> None:
    asked = Options(
        checkpoints=False,
        evaluation=Evaluation(home=tmp_path, limit=200),
    )
    done = ladder.climb("tiny_ladder", asked, lambda one, above: "--yes")
    assert (done.failed, [one.decision for one in done.decisions]) == (
        "",
        ["escalate", "escalate", "top"],
    )
