"""From a command to the history, with the mock engine and the questions that ship with tasks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint
from processes import pids_of, wait_for

from harness import runs, store
from harness.errors import DataError, UsageError
from harness.evaluate import evaluate, resume
from harness.types import JSON, Run


class Ear:
    """Remembers what an evaluation said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, model: str, counts: JSON) -> None:
        pass


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_checkpoint(tmp_path / "model"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def ask(model: str, tasks: str, home: Path, **changes: Any) -> list[Run]:
    options: dict[str, Any] = {"engine": "mock", "offline_sample": True, "home": home}
    return evaluate(model, tasks, **(options | changes))


def count(home: Path, sql: str) -> int:
    return int(store.query(home, sql)[1][0][0])


def test_a_run_leaves_every_answer_in_the_history(model: str, home: Path) -> None:
    (run,) = ask(model, "gsm8k", home)
    assert (run.status, run.n_samples, run.flags) == ("done", 6, ("offline_sample",))
    assert count(home, f"SELECT count(*) FROM samples WHERE run_id = '{run.run_id}'") == 6
    _, rows = store.query(home, "SELECT metric, n FROM measures ORDER BY metric")
    assert [row[0] for row in rows] == [
        *("flexible_extract", "parse_failure_rate", "strict_match", "truncation_rate")
    ]
    assert {row[1] for row in rows} == {6}
    assert count(home, "SELECT count(*) FROM grades WHERE grader = 'gsm8k_flexible'") == 6


def test_several_tasks_and_models_give_a_run_each_in_order(tmp_path: Path, home: Path) -> None:
    models = [str(write_checkpoint(tmp_path / name, name.encode())) for name in ("a", "b")]
    found = ask(",".join(models), "medqa,gsm8k", home)
    assert [(run.model, run.task) for run in found] == [
        (model, task) for model in models for task in ("medqa", "gsm8k")
    ]


def test_a_finished_run_is_shown_again_and_fresh_repeats_it(model: str, home: Path) -> None:
    ear = Ear()
    first, second = (ask(model, "gsm8k", home, listener=ear)[0].run_id for _ in range(2))
    assert first == second
    assert any("done already" in note for note in ear.notes)
    assert ask(model, "gsm8k", home, fresh=True)[0].run_id != first


def ask_elsewhere(model: str, home: Path, *more: str) -> None:
    done = subprocess.run(command(model, home, *more), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def command(model: str, home: Path, *more: str) -> list[str]:
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from harness.cli.app import main; main()"
    options = ["--engine", "mock", "--home", str(home), "--offline-sample"]
    tasks = [] if "--tasks" in more else ["--tasks", "gsm8k"]
    return [sys.executable, "-c", program, "eval", "--model", model, *options, *tasks, *more]


def test_new_weights_under_the_same_name_are_another_question(model: str, home: Path) -> None:
    ask_elsewhere(model, home)
    write_checkpoint(Path(model), b"other weights")
    ask_elsewhere(model, home)
    assert len(runs.run_folders(home)) == 2


def test_settings_that_only_change_speed_are_the_same_question(model: str, home: Path) -> None:
    ask_elsewhere(model, home)
    ask_elsewhere(model, home, "--set", "delay_s=0.001")
    assert len(runs.run_folders(home)) == 1


@pytest.mark.parametrize("killed", ["worker", "bench", "both"])
def test_a_killed_run_is_finished_with_the_same_result(
    model: str, home: Path, tmp_path: Path, killed: str
) -> None:
    (whole,) = ask(model, "mmlu", tmp_path / "other home")
    child = subprocess.Popen(
        command(model, home, "--tasks", "mmlu", "--set", "delay_s=0.2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (folder,) = wait_for(lambda: [f for f in runs.run_folders(home) if lines(f) >= 2])
    worker = int(pids_of(str(folder))[0])
    for pid in {"worker": [worker], "bench": [child.pid], "both": [child.pid, worker]}[killed]:
        os.kill(pid, signal.SIGKILL)
    child.wait()
    wait_for(lambda: not runs.is_locked(folder))
    assert runs.read_manifest(folder).status == "interrupted"
    kept = (folder / runs.COMPLETIONS).read_bytes()
    (again,) = ask(model, "mmlu", home)
    assert again.run_id == folder.name
    assert (again.status, again.outputs_sha256) == ("done", whole.outputs_sha256)
    answers = (folder / runs.COMPLETIONS).read_bytes()
    assert answers.startswith(kept[: kept.rfind(b"\n") + 1])
    assert lines(folder) == whole.n_samples
    assert count(home, "SELECT count(*) FROM samples") == whole.n_samples


def lines(folder: Path) -> int:
    path = folder / runs.COMPLETIONS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ctrl_c_leaves_an_interrupted_run_and_status_130(model: str, home: Path) -> None:
    child = subprocess.Popen(
        command(model, home, "--set", "delay_s=0.2"), stderr=subprocess.PIPE, text=True
    )
    (folder,) = wait_for(lambda: [f for f in runs.run_folders(home) if lines(f) >= 1])
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    run = runs.read_manifest(folder)
    assert (run.status, run.cause) == ("interrupted", "interrupted")
    assert store.query(home, "SELECT cause FROM failures")[1] == [("interrupted",)]
    assert resume(run.run_id[-6:], home).status == "done"


def test_eight_at_once_are_all_in_the_history(model: str, home: Path) -> None:
    children = [
        subprocess.Popen(
            command(model, home, "--set", "delay_s=0.05"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for child in children:
        said = child.communicate(timeout=120)[1]
        assert child.returncode == 0, said
    assert count(home, "SELECT count(*) FROM runs WHERE status = 'done'") == 8
    assert count(home, "SELECT count(*) FROM samples") == 48


def test_a_prompt_that_does_not_fit_is_a_failed_run_beside_a_finished_one(
    model: str, home: Path
) -> None:
    home.mkdir()
    entry = {"Small": {"path": model, "max_model_len": 700}}
    (home / "model_registry.json").write_text(json.dumps(entry))
    refused, done = ask("Small", "gsm8k,arithmetic", home, limit=3)
    assert (refused.status, refused.cause) == ("failed", "context_length")
    assert "the context holds 700" in (refused.error or "")
    assert done.status == "done"
    assert count(home, "SELECT count(*) FROM failures WHERE cause = 'context_length'") == 1


def test_an_answer_that_is_missing_is_never_a_zero(model: str, home: Path) -> None:
    (run,) = ask(model, "gsm8k", home)
    folder = runs.folder_of(home, run.run_id)
    text = (folder / runs.COMPLETIONS).read_text().splitlines(keepends=True)
    (folder / runs.COMPLETIONS).write_text("".join(text[:-1]))
    runs.write_manifest(home, replace(run, status="failed", cause="test"))
    again = resume(run.run_id, home)
    assert again.status == "done"
    assert (folder / runs.COMPLETIONS).read_text().splitlines() == [t.strip() for t in text]


def test_an_answer_table_gives_the_score_it_should(model: str, home: Path, tmp_path: Path) -> None:
    (run,) = ask(model, "gsm8k", home)
    requests = list(runs.read_requests(runs.folder_of(home, run.run_id)))
    right = {f"gsm8k/{r['id']}": r["sample"]["target"] for r in requests}
    wrong = next(iter(right))
    table = tmp_path / "answers.json"
    table.write_text(json.dumps(right | {wrong: "I do not know"}))
    (run,) = ask(model, "gsm8k", home, settings={"answers": str(table)})
    sql = f"SELECT value FROM measures WHERE run_id = '{run.run_id}' AND metric = '{{}}'"
    assert store.query(home, sql.format("strict_match"))[1] == [(5 / 6,)]
    assert store.query(home, sql.format("parse_failure_rate"))[1] == [(1 / 6,)]


def test_several_samples_of_a_question_are_all_kept(model: str, home: Path) -> None:
    (run,) = ask(model, "gsm8k", home, samples=3, temperature=1.0)
    assert count(home, "SELECT count(*) FROM samples") == 18
    assert count(home, "SELECT count(DISTINCT sample_index) FROM samples") == 3
    assert run.sampling["n"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 0}, "`--limit 0` leaves no question"),
        ({"samples": 4}, "`--samples 4` at temperature 0"),
        ({"engine": "vlm"}, "unknown engine `vlm`"),
        ({"settings": {"dtyp": "x"}}, "unknown setting `dtyp`"),
        ({"settings": {"delay_s": "soon"}}, "`delay_s=soon` is not a number"),
        ({"engine": "hf", "settings": {"dtype": "fp16"}}, "unknown dtype `fp16`"),
        ({"shots": 99}, "99"),
        ({"max_tokens": 0}, "`--max-tokens 0`"),
        ({"temperature": -1.0}, "negative"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    model: str, home: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        ask(model, "gsm8k", home, **changes)
    assert message in caught.value.message
    assert caught.value.hint
    assert runs.run_folders(home) == []


def test_sampling_options_without_a_task_that_generates_are_refused(model: str, home: Path) -> None:
    with pytest.raises(UsageError, match="`--temperature` has no meaning for `medqa`"):
        ask(model, "medqa", home, temperature=1.0)


def test_missing_data_says_where_it_looked(
    model: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError) as caught:
        ask(model, "gsm8k", home, offline_sample=False, data_root=tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "--data-root" in caught.value.hint
    assert "--offline-sample" in caught.value.hint


def test_the_manifest_says_what_was_asked_and_by_what(model: str, home: Path) -> None:
    (run,) = ask(model, "mmlu", home, shots=2, seed=7, limit=4)
    assert run.protocol_parts["shots"] == 2
    assert (run.limit_n, run.n_samples, run.seed) == (4, 4, 7)
    assert {"tunebench", "python", "duckdb"} <= set(run.packages)
    assert run.engine_version == "mock 1"
    assert run.dataset_revision
    assert run.argv
    assert run.engine_stats["bos_count"] == 0
    assert run.model_fingerprint
    assert len(run.protocol) == 16


def test_protocols_differ_exactly_when_the_questions_or_their_form_do(
    model: str, home: Path
) -> None:
    def protocol(tasks: str = "gsm8k", **changes: Any) -> str:
        return ask(model, tasks, home, **changes)[0].protocol

    plain = protocol()
    assert protocol(seed=1234) == plain
    assert protocol(settings={"delay_s": "0.001"}) == plain
    sampled = protocol(temperature=0.5)
    different = [
        plain,
        sampled,
        protocol(shots=0),
        protocol(limit=3),
        protocol(chat=True),
        protocol(max_tokens=99),
        protocol(seed=1),
        protocol("arithmetic"),
    ]
    assert len(set(different)) == len(different)
