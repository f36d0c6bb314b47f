"""Searches with a program as trainer and the mock engine: repeated, refused, killed, shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import runs, store
from harness.errors import UsageError
from harness.evaluate import Options as Evaluation
from harness.training_process import StepReader
from harness.tuning.plan import Options
from harness.tuning.report import Outcome
from harness.tuning.tune import tune

PROGRAM = """
import os, shutil, sys, time
print("step 1 loss", os.environ["RATE"], flush=True)
time.sleep(float(os.environ.get("SLOW", 0)))
shutil.copytree(sys.argv[1], sys.argv[2])
"""
RATES = ["0.1", "0.2", "0.3", "0.4", "0.5"]


def recipe(folder: Path, **search: Any) -> str:
    usual = {
        "space": {"params.environment.RATE": {"choices": RATES}},
        "objective": "arithmetic",
        "evaluations": 1,
        "pruner": "none",
        "sampler": "random",
        "trials": 3,
        "questions": 10,
    }
    values = {
        "method": "command",
        "model": "Tiny/base",
        "device": "cpu",
        "precision": "fp32",
        "tasks": ["arithmetic"],
        "params": {
            "command": [sys.executable, "-c", PROGRAM, "{model}", "{checkpoint}"],
            "step_pattern": r"step (?P<step>\d+) loss (?P<loss>\S+)",
        },
        "search": {**usual, **search},
    }
    path = folder / "program.yaml"
    path.write_text(json.dumps(values))
    return str(path)


def searched(home: Path, name: str, **options: Any) -> Outcome:
    evaluation = Evaluation(home=home, engine="mock", limit=20)
    return tune(name, Options(evaluation=evaluation, **options))


def tried(done: Outcome) -> list[str]:
    return [one["params"]["params.environment.RATE"] for one in done.trials if not one["cause"]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Outcome]:
    home = tmp_path_factory.mktemp("program")
    name = recipe(home)
    return home, name, searched(home, name, register="Tuned")


Done = tuple[Path, str, Outcome]


def test_a_program_is_tuned_by_its_environment_and_judged_at_its_end(done: Done) -> None:
    home, _, found = done
    assert [(one["state"], one["error"]) for one in found.trials] == [("complete", None)] * 3
    losses = [
        step["loss"]
        for one in found.trials
        for step in StepReader(runs.folder_of(home, one["child_run_id"])).new()
        if "loss" in step
    ]
    assert losses == [float(rate) for rate in tried(found)]


def test_the_same_command_repeats_nothing_and_more_trials_are_added(done: Done) -> None:
    home, name, found = done
    again = searched(home, name, register="Tuned")
    assert (again.run.run_id, again.trials) == (found.run.run_id, found.trials)
    more = searched(home, name, trials=5, register="Tuned")
    assert more.trials[:3] == found.trials
    assert len(more.trials) == 5
    assert store.query(home, "SELECT count(*) FROM runs WHERE kind = 'tune'")[1] == [(1,)]


def test_another_recipe_under_the_same_name_is_refused(done: Done, tmp_path: Path) -> None:
    home, _, _ = done
    changed = recipe(tmp_path, seed=7)
    with pytest.raises(UsageError, match=r"made by another recipe: `search.seed`"):
        searched(home, changed)
    other = searched(home, changed, study="other", trials=1)
    assert (other.study, len(other.trials)) == ("other", 1)


def test_the_history_is_rebuilt_from_folders(done: Done) -> None:
    home, _, _ = done
    asked = "SELECT * FROM trials ORDER BY run_id, trial"
    before = store.query(home, asked)[1]
    (home / "leaderboards" / "bench.duckdb").unlink()
    store.sync(home)
    assert store.query(home, asked)[1] == before
    assert before


def command(home: Path, name: str, *more: str, slow_s: float = 0.0) -> subprocess.Popen[bytes]:
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    main = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    main += "from harness.cli.app import main; main()"
    line = [sys.executable, "-c", main, "tune", name, "--home", str(home), "--engine", "mock"]
    with (home / "commands.log").open("ab") as log:
        return subprocess.Popen(
            [*line, "--limit", "20", *more],
            stdout=log,
            stderr=log,
            env={**os.environ, "SLOW": str(slow_s)},
        )


def wait_for(what: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    while not what():
        assert child.poll() is None, "the command ended too early"
        time.sleep(0.05)


def begun(home: Path) -> int:
    """Trials whose program has printed its step."""
    return len(list(home.glob("runs/*-train-*/steps.jsonl")))


def test_a_killed_search_goes_on_and_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for home in (whole, killed):
        home.mkdir()
    expected = searched(whole, recipe(whole, trials=4))
    name = recipe(killed, trials=4)
    for count in (1, 2):
        child = command(killed, name, slow_s=1.0)
        wait_for(lambda least=count: begun(killed) >= least, child)  # type: ignore[misc]
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    found = searched(killed, name)
    assert sorted(tried(found)) == sorted(tried(expected))
    cut = [one for one in found.trials if one["cause"]]
    assert 1 <= len(cut) <= 2
    assert {(one["state"], one["cause"]) for one in cut} == {("failed", "killed")}
    ids = ", ".join(f"'{one['child_run_id']}'" for one in found.trials if one["child_run_id"])
    statuses = store.query(killed, f"SELECT DISTINCT status FROM runs WHERE run_id IN ({ids})")[1]
    assert statuses == [("done",)]


def test_two_commands_with_several_workers_share_one_study(tmp_path: Path) -> None:
    name = recipe(tmp_path, trials=6)
    children = [command(tmp_path, name, "--workers", "2", slow_s=0.3)]
    children.append(command(tmp_path, name, slow_s=0.3))
    assert [child.wait() for child in children] == [0, 0], (tmp_path / "commands.log").read_text()
    store.sync(tmp_path)
    counted = "SELECT count(*), count(DISTINCT child_run_id), count(DISTINCT run_id) FROM trials"
    assert store.query(tmp_path, counted)[1] == [(6, 6, 1)]
    of_runs = "SELECT kind, status, count(*) FROM runs WHERE kind <> 'eval' GROUP BY ALL ORDER BY 1"
    assert store.query(tmp_path, of_runs)[1] == [("train", "done", 6), ("tune", "done", 1)]


def test_an_interrupted_search_says_so_and_its_trial_is_tried_again(tmp_path: Path) -> None:
    name = recipe(tmp_path, trials=2)
    child = command(tmp_path, name, slow_s=5.0)
    wait_for(lambda: begun(tmp_path) >= 1, child)
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130
    (run,) = [one for one in runs.read_all(tmp_path) if one.kind == "tune"]
    assert (run.status, run.cause) == ("interrupted", "interrupted")
    found = searched(tmp_path, name)
    assert len(tried(found)) == 2
    assert found.run.status == "done"


def test_a_trial_whose_engine_dies_fails_and_the_next_one_gets_a_new_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("DIES_ONCE", str(tmp_path / "died"))
    evaluation = Evaluation(
        home=tmp_path, engine="mock", limit=20, settings={"answers": "dying_answers:answer"}
    )
    found = tune(recipe(tmp_path, trials=2), Options(evaluation=evaluation))
    assert [(one["state"], one["cause"]) for one in found.trials] == [
        ("failed", "killed"),
        ("complete", None),
    ]
    assert found.run.status == "done"
