from __future__ import annotations

import json
import os
import signal
import sys
import time
import venv
from pathlib import Path

import pytest

from harness.errors import WorkerError
from harness.infer import inspect_requests
from harness.launch import ended_on_exit, explain, last_lines, start
from harness.types import ModelSpec, Request

QUESTION = Request(id="q", kind="generate", prompt="?")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that starts a grandchild, says both ids and then waits for ever."""
    (tmp_path / "forever.py").write_text(
        "import subprocess, sys, os, threading\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "forever"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_whole_group_is_gone_after_the_context(program: str, tmp_path: Path) -> None:
    child = start(program, [], log=tmp_path / "log")
    assert child.stdout is not None
    with ended_on_exit(child):
        pids = [int(pid) for pid in child.stdout.readline().split()]
        assert all(map(alive, pids))
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(map(alive, pids))


def test_the_child_is_in_a_session_of_its_own(program: str, tmp_path: Path) -> None:
    child = start(program, [], log=tmp_path / "log")
    with ended_on_exit(child):
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


@pytest.mark.parametrize(
    ("last_line", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("ModuleNotFoundError: No module named 'torch'", "import_error"),
        ("RuntimeError: Expected all tensors to be on the same device", "device_mismatch"),
        ("ValueError: something else", "worker_error"),
    ],
)
def test_the_cause_is_read_from_the_end_of_the_log(
    tmp_path: Path, last_line: str, cause: str
) -> None:
    log = tmp_path / "log"
    log.write_text(f"Traceback (most recent call last):\n  …\n{last_line}\n\n")
    ending = explain(1, log)
    assert (ending.cause, ending.message) == (cause, f"exit status 1: {last_line}")


def test_a_signal_is_named(tmp_path: Path) -> None:
    ending = explain(-signal.SIGKILL, tmp_path / "log")
    assert ending.cause == "killed"
    assert "SIGKILL" in ending.message
    assert explain(0, tmp_path / "log").cause is None


def test_the_end_of_a_long_log_is_read_without_the_rest(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {i}\n" for i in range(100_000)))
    assert last_lines(log, 2) == "line 99998\nline 99999"
    assert last_lines(tmp_path / "none", 2) == ""


def test_the_child_uses_the_interpreter_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be started"):
        start("harness", [], log=tmp_path / "log", python=str(tmp_path / "no-python"))
    child = start("this", [], log=tmp_path / "log", python=sys.executable)
    with ended_on_exit(child):
        assert child.stdout is not None
        assert "Zen" in child.stdout.readline()


def test_another_interpreter_gets_our_package_and_nothing_beside_it(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    other = str(tmp_path / "venv" / "bin" / "python")
    part = {"model": {"name": "m", "path": "m"}, "runs": []}
    job = {"parts": [part], "engine": "mock", "settings": {}, "tokenize_only": True}
    child = start("harness.engines.worker", [json.dumps(job)], log=tmp_path / "log", python=other)
    with ended_on_exit(child):
        assert child.wait(timeout=30) == 0, (tmp_path / "log").read_text()
    model = ModelSpec(name="m", path="m")
    with pytest.raises(WorkerError, match="No module named 'tokenizers'") as caught:
        inspect_requests(model, [QUESTION], "hf", {"python": other})
    assert caught.value.cause == "import_error"
