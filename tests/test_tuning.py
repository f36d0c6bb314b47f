"""Searches as a user starts them, with real trainings of Tiny."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness import recipes, runs, store
from harness.cli.app import app
from harness.evaluate import Options as Evaluation
from harness.train import train_recipe
from harness.trainer import CHECKPOINT
from harness.training_plan import Options as Training
from harness.training_process import StepReader
from harness.tuning.plan import Options
from harness.tuning.report import Outcome, as_json
from harness.tuning.tune import tune
from harness.types import JSON

LR = {"optimizer.learning_rate": {"choices": [1e-3, 1e-5, 1e30]}}
BRIEF: JSON = {
    "extends": "tiny_sft",
    "epochs": None,
    "max_steps": 6,
    "save_steps": 0,
    "global_batch_size": 8,
    "micro_batch_size": 8,
}


def recipe(folder: Path, name: str = "brief", **changes: Any) -> str:
    given = changes.get("search", {})
    search = {"space": LR, "evaluations": 3, "trials": 4, "sampler": "random", **given}
    if "objective" in search:
        search["questions"] = 20
    values = {**BRIEF, **changes, "search": search}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(values))
    return str(path)


def searched(home: Path, name: str, engine: str = "mock", **options: Any) -> Outcome:
    evaluation = Evaluation(home=home, engine=engine, limit=20)
    return tune(name, Options(evaluation=evaluation, **options))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    home: Path
    recipe: str
    done: Outcome


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A search by a task with the mock engine, one of whose learning rates is none."""
    home = tmp_path_factory.mktemp("tuned")
    name = recipe(home, search={"objective": "arithmetic", "pruner": "none", "seed": 9})
    return Tuned(home=home, recipe=name, done=searched(home, name, register="Tuned"))


def trials(home: Path, what: str) -> list[tuple[Any, ...]]:
    return store.query(home, f"SELECT {what} FROM trials ORDER BY trial")[1]


def test_every_trial_is_a_run_of_its_own_with_its_values(tuned: Tuned) -> None:
    _, rows = store.query(
        tuned.home,
        "SELECT t.params->>'$.\"optimizer.learning_rate\"', t.state, r.kind, r.status, r.cause, "
        "CAST(r.recipe->>'$.resolved.optimizer.learning_rate' AS DOUBLE) "
        "FROM trials t JOIN runs r ON r.run_id = t.child_run_id ORDER BY trial",
    )
    assert len(rows) == 4
    for tried, state, kind, status, cause, learnt in rows:
        assert kind == "train"
        assert float(tried) == learnt
        ended = ("failed", "failed", "nan_loss") if learnt == 1e30 else ("complete", "done", None)
        assert (state, status, cause) == ended
    assert {row[1] for row in rows} == {"complete", "failed"}


def test_a_failed_trial_says_why_and_the_worker_goes_on(tuned: Tuned) -> None:
    rows = trials(tuned.home, "state, cause, error, training_start_s")
    failed = [row for row in rows if row[0] == "failed"]
    assert {row[1] for row in failed} == {"nan_loss"}
    assert all("the loss is" in row[2] for row in failed)


def test_trials_are_judged_by_one_half_and_the_best_by_the_other(tuned: Tuned) -> None:
    asked = store.query(
        tuned.home, "SELECT flags, model, count(*) FROM runs WHERE kind = 'eval' GROUP BY ALL"
    )[1]
    by_half: dict[str, list[tuple[str, int]]] = {}
    for flags, model, count in asked:
        by_half.setdefault(flags[0], []).append((model, count))
    reached = store.query(tuned.home, "SELECT count(*) FROM steps WHERE metric LIKE 'eval/%'")[1]
    assert [(sum(count for _, count in by_half["half=tuning"]),)] == reached
    assert sorted(by_half["half=report"]) == [("Tiny/base", 1), ("Tuned", 1)]
    halves = store.query(
        tuned.home,
        "SELECT list_contains(flags, 'half=tuning'), list(DISTINCT sample_id) "
        "FROM runs JOIN samples USING (run_id) GROUP BY 1",
    )[1]
    assert len(halves) == 2
    assert set(halves[0][1]).isdisjoint(halves[1][1])
    assert store.query(tuned.home, "SELECT count(*) FROM leaderboard")[1] == [(0,)]


def test_kinds_of_answers_are_counted_for_each_trial(tuned: Tuned) -> None:
    for one in tuned.done.trials:
        # One that failed was evaluated before it did.
        kinds = [one[kind] for kind in ("correct", "wrong", "format_failure")]
        assert sum(kinds) == 20
        assert one["value"] == kinds[0] / 20


def test_the_curve_of_a_trial_is_in_its_steps(tuned: Tuned) -> None:
    best = tuned.done.best
    assert best is not None
    curve = store.query(
        tuned.home,
        "SELECT step FROM steps WHERE metric = 'eval/arithmetic' AND run_id = "
        f"'{best['child_run_id']}' ORDER BY step",
    )[1]
    assert curve == [(2,), (4,), (6,)]


def test_only_the_best_checkpoint_stays_and_is_registered(tuned: Tuned) -> None:
    best = tuned.done.best
    assert best is not None
    kept = [place.parent.name for place in (tuned.home / "runs").glob(f"*/{CHECKPOINT}")]
    assert kept == [best["child_run_id"]]
    assert not list((tuned.home / "runs").glob("*/points"))
    book = json.loads((tuned.home / "model_registry.json").read_text())
    assert book["Tuned"]["parent"] == "Tiny/base"
    assert book["Tuned"]["run"] == best["child_run_id"]


def test_the_best_values_are_a_recipe_that_trains_what_the_trial_trained(tuned: Tuned) -> None:
    best = tuned.done.best
    assert best is not None
    assert tuned.done.recipe is not None
    asked = recipes.read(str(tuned.done.recipe), {})
    assert asked.shape.search is None
    assert asked.shape.optimizer.learning_rate == best["params"]["optimizer.learning_rate"]
    run = train_recipe(str(tuned.done.recipe), Training(home=tuned.home))
    folders = [runs.folder_of(tuned.home, i) for i in (run.run_id, best["child_run_id"])]
    alone, tried = (
        [step["loss"] for step in StepReader(folder).new() if "loss" in step] for folder in folders
    )
    assert run.status == "done"
    assert alone == tried


def test_the_run_of_the_search_has_recipe_report_and_plots(tuned: Tuned) -> None:
    run = tuned.done.run
    assert (run.kind, run.status, run.cause) == ("tune", "done", None)
    told = as_json(tuned.done)
    assert [Path(path).name for path in told["plots"]][:3] == [
        *("history.png", "slice.png", "parallel_coordinate.png")
    ]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in told["plots"])
    assert [one["task"] for one in told["comparison"]] == ["arithmetic"]
    assert told["best"] in told["trials"]


def test_trials_by_their_loss_are_pruned_at_the_first_evaluation(tmp_path: Path) -> None:
    rates = {"optimizer.learning_rate": {"low": 1e-4, "high": 3e-3, "log": True}}
    name = recipe(tmp_path, tasks=[], search={"space": rates, "trials": 6, "seed": 3})
    done = searched(tmp_path, name)
    first = done.trials[0]
    assert (first["state"], first["last_step"]) == ("complete", 6)
    cut = [one for one in done.trials if one["state"] == "pruned"]
    assert cut
    assert all(one["last_step"] < 6 for one in cut)
    flags = store.query(tmp_path, "SELECT DISTINCT flags FROM runs WHERE kind = 'train'")[1]
    assert (["pruned"],) in flags
    # A model read once is copied in no time; the first trial waits for Python, torch and TRL.
    starts = [row[0] for row in trials(tmp_path, "training_start_s")]
    assert max(starts[1:]) < starts[0]
    assert done.comparison == ()


def test_a_trial_that_gets_no_better_is_stopped(tmp_path: Path) -> None:
    rates = {"optimizer.learning_rate": {"choices": [1e-9, 2e-9]}}
    search = {"space": rates, "pruner": "none", "patience": 1, "min_delta": 0.01, "trials": 1}
    done = searched(tmp_path, recipe(tmp_path, tasks=[], search=search))
    assert [(one["state"], one["last_step"]) for one in done.trials] == [("complete", 4)]
    flags = store.query(tmp_path, "SELECT flags FROM runs WHERE kind = 'train'")[1]
    assert flags[0][0][0] == "stopped_early"


def test_a_search_whose_trials_all_fail_fails_with_their_cause(tmp_path: Path) -> None:
    rates = {"optimizer.learning_rate": {"choices": [1e30, 1e31]}}
    name = recipe(tmp_path, search={"space": rates, "trials": 2})
    done = CliRunner().invoke(app, ["tune", name, "--home", str(tmp_path), "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["status"], told["cause"], told["best"]) == ("failed", "nan_loss", None)
    assert [one["cause"] for one in told["trials"]] == ["nan_loss"] * 2


def test_a_dry_run_starts_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tune", "tiny_tune", "--home", str(tmp_path), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "optimizer.learning_rate: 1e-05 to 0.01" in done.stdout
    assert not list((tmp_path / "runs").glob("[!.]*"))
    assert not (tmp_path / "leaderboards" / "studies").exists()


@pytest.mark.long
def test_a_real_engine_stays_for_all_evaluations(tmp_path: Path) -> None:
    rates = {"optimizer.learning_rate": {"choices": [1e-3, 2e-3]}}
    search = {"space": rates, "objective": "arithmetic", "trials": 3, "pruner": "none"}
    name = recipe(tmp_path, search=search, lora={"rank": 4, "alpha": 8})
    done = searched(tmp_path, name, engine="hf")
    assert [one["state"] for one in done.trials] == ["complete"] * 3
    starts = [row[0] for row in trials(tmp_path, "engine_start_s")]
    assert max(starts[1:]) < starts[0]


@pytest.mark.long
def test_20_tiny_trials_with_asha_take_at_most_half_the_steps(tmp_path: Path) -> None:
    rates = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    taken = []
    for pruner in ("asha", "none"):
        search = {"space": rates, "trials": 20, "evaluations": 9, "pruner": pruner}
        home = tmp_path / pruner
        home.mkdir()
        done = searched(home, recipe(home, tasks=[], max_steps=9, search=search))
        taken.append(sum(one["last_step"] for one in done.trials))
    assert taken[1] == 180
    assert taken[0] <= taken[1] / 2


@pytest.mark.long
def test_trials_of_several_processes_are_looked_at_and_pruned_too(tmp_path: Path) -> None:
    rates = {"optimizer.learning_rate": {"choices": [1e-4, 1e-2]}}
    several = {"launcher": "ddp", "num_processes": 2, "micro_batch_size": 4, "device": "cpu"}
    alone = recipe(tmp_path, "alone", tasks=[], search={"space": rates, "trials": 2})
    shared = recipe(tmp_path, "shared", tasks=[], search={"space": rates, "trials": 2}, **several)
    expected, found = searched(tmp_path, alone), searched(tmp_path, shared)
    assert [(one["params"], one["state"], one["last_step"]) for one in found.trials] == [
        (one["params"], one["state"], one["last_step"]) for one in expected.trials
    ]
    for one, other in zip(found.trials, expected.trials, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-4)
