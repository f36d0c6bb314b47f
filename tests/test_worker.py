"""The worker process and its watcher, with the mock engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import runs
from harness.errors import WorkerError
from harness.infer import WORKER, Job, infer, inspect_requests
from harness.types import JSON, ModelSpec, Request, SamplingParams, to_json

MODEL = ModelSpec(name="m", path="m")


def write_requests(folder: Path, ids: Sequence[str], n: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sampling = SamplingParams(n=n, temperature=1.0)
    lines = [
        to_json(Request(id=i, kind="generate", prompt=f"What is {i}?", sampling=sampling))
        for i in ids
    ]
    (folder / runs.REQUESTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def job(*folders: Path, model: ModelSpec = MODEL, **settings: object) -> Job:
    tasks = tuple((folder, f"task{i}") for i, folder in enumerate(folders))
    return Job(model=model, engine="mock", settings=settings, runs=tasks)


def events(job: Job, log: Path) -> list[JSON]:
    return list(infer(job, log=log))


def answered(folder: Path) -> list[tuple[str, int]]:
    return [(c.request_id, c.index) for c in runs.read_completions(folder)]


def test_every_run_gets_its_own_completions_from_one_worker(tmp_path: Path) -> None:
    # The same ids in both runs: they must not meet.
    a = write_requests(tmp_path / "a", ["x", "y"])
    b = write_requests(tmp_path / "b", ["x"], n=2)
    heard = events(job(a, b), tmp_path / "log")
    assert answered(a) == [("x", 0), ("y", 0)]
    assert answered(b) == [("x", 0), ("x", 1)]
    finished = [Path(event["run"]).name for event in heard if event["event"] == "finished"]
    assert sorted(finished) == ["a", "b"]
    assert [event["event"] for event in heard].count("loaded") == 1
    assert heard[-1]["event"] == "stats"


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    a = write_requests(tmp_path / "a", ["x", "y", "z"])
    events(job(a), tmp_path / "log")
    whole = (a / runs.COMPLETIONS).read_bytes()
    lines = whole.splitlines(keepends=True)
    (a / runs.COMPLETIONS).write_bytes(lines[0] + lines[1][:10])
    events(job(a, answers="", delay_s=0.0), tmp_path / "log")
    assert (a / runs.COMPLETIONS).read_bytes() == whole


def test_a_finished_run_starts_no_engine(tmp_path: Path) -> None:
    a = write_requests(tmp_path / "a", ["x"])
    events(job(a), tmp_path / "log")
    heard = events(job(a), tmp_path / "log")
    assert [event["event"] for event in heard] == ["finished"]


def test_a_run_that_does_not_fit_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    a = write_requests(tmp_path / "a", ["x" * 500])
    b = write_requests(tmp_path / "b", ["x"])
    small = ModelSpec(name="m", path="m", max_model_len=400)
    heard = events(job(a, b, model=small), tmp_path / "log")
    refused = [event for event in heard if event["event"] == "refused"]
    assert [(Path(e["run"]).name, e["cause"]) for e in refused] == [("a", "context_length")]
    assert answered(b) == [("x", 0)]
    assert not (a / runs.COMPLETIONS).exists()


def test_a_killed_worker_is_an_error_that_keeps_what_was_answered(tmp_path: Path) -> None:
    a = write_requests(tmp_path / "a", [str(i) for i in range(200)])
    watched = infer(job(a, delay_s=0.01), log=tmp_path / "log")
    next(event for event in watched if event["event"] == "progress" and event["done"] >= 5)
    os.kill(_worker_pid(a), signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL") as caught:
        list(watched)
    assert caught.value.cause == "killed"
    kept = answered(a)
    assert len(kept) >= 5
    events(job(a), tmp_path / "log")
    assert sorted(answered(a)) == sorted((str(i), 0) for i in range(200))
    assert answered(a)[: len(kept)] == kept


def _worker_pid(folder: Path) -> int:
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])


def test_an_engine_that_raises_ends_with_its_last_line(tmp_path: Path) -> None:
    a = write_requests(tmp_path / "a", ["x"])
    missing = "ModuleNotFoundError: No module named 'nowhere'"
    with pytest.raises(WorkerError, match=missing) as caught:
        events(job(a, answers="nowhere:nothing"), tmp_path / "log")
    assert caught.value.cause == "import_error"
    assert "pip install" in caught.value.hint
    assert str(tmp_path / "log") in caught.value.hint


def test_a_full_disk_keeps_what_was_answered_and_the_run_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    ids = [str(i) for i in range(500)]
    a = write_requests(small_disk / "a", ids)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 40_000))
    with pytest.raises(WorkerError, match="disk is full") as caught:
        events(job(a), tmp_path / "log")
    assert caught.value.cause == "disk_full"
    kept = answered(a)
    assert 0 < len(kept) < 500
    ballast.unlink()
    events(job(a), tmp_path / "log")
    assert answered(a) == [(i, 0) for i in ids]


def test_the_worker_ends_with_its_parent(tmp_path: Path) -> None:
    a = write_requests(tmp_path / "a", [str(i) for i in range(2000)])
    arguments = [sys.executable, "-m", WORKER, json.dumps(job(a, delay_s=0.01).to_json())]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    child.stdout.readline()
    child.stdin.close()
    assert child.wait(timeout=10) == 3
    child.stdout.close()


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("import ray", ""),  # vLLM imports it; nothing runs on it
        ("ray.init(num_cpus=1, include_dashboard=False)", "taken apart"),
    ],
)
def test_a_worker_leaves_at_once_unless_processes_of_its_own_run(before: str, said: str) -> None:
    text = f"""
import atexit, ray
from harness.engines.worker import leave
{before}
atexit.register(print, "taken apart")
leave(3)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (3, said)


def test_requests_can_be_inspected_without_loading_weights() -> None:
    counts = inspect_requests(MODEL, [Request(id="x", kind="generate", prompt="abc")], "mock")
    assert (counts.prompt_tokens, counts.first_ids) == (3, (97, 98, 99))
