"""A sweep that was killed: it goes on where it stopped, and takes nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import pids_of, wait_for

from harness import activation_file, runs
from harness.steering.experiment import steer

PROMPTS, WIDTH = 300, 128
OPTIONS: dict[str, Any] = {"offline_sample": True, "controls": 1, "seeds": 1, "reduction": "none"}


def write_prompts(path: Path) -> Path:
    """Of many lengths, so that a small batch holds few of them."""
    rows = [
        {"prompt": f"{i} " + "how many apples " * (i % 5), "label": ("safe", "unsafe")[i % 2]}
        for i in range(PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(home: Path, prompts: Path) -> list[str]:
    program = "from harness.cli.app import main; main()"
    options = ["--controls", "1", "--seeds", "1", "--reduction", "none", "--lambdas", "0,0.5,1"]
    files = ["--offline-sample", "--prompts", str(prompts), "--home", str(home)]
    small = ["--set", "chunk_tokens=128", "--mode", "full"]
    return [sys.executable, "-c", program, "steer", "--model", "Tiny", *options, *files, *small]


def contents(home: Path) -> dict[str, bytes]:
    folder = home / "steering" / "activations"
    return {path.name: path.read_bytes() for path in folder.glob("*.bin")}


@pytest.mark.long
@pytest.mark.parametrize("killed", ["worker", "bench"])
def test_a_killed_sweep_goes_on_where_it_stopped_and_takes_nothing_twice(
    killed: str, tmp_path: Path
) -> None:
    home, prompts = tmp_path / "home", write_prompts(tmp_path / "prompts.jsonl")
    child = subprocess.Popen(command(home, prompts), stderr=subprocess.DEVNULL)
    # Three files hold the texts under both checkpoints and the prompts under the tuned one; the
    # fourth and those behind it are points of the sweep.
    wait_for(lambda: len(contents(home)) > 3, timeout_s=120)
    (folder,) = runs.run_folders(home)
    os.kill(int(pids_of(str(folder))[0]) if killed == "worker" else child.pid, signal.SIGKILL)
    child.wait()
    wait_for(lambda: not runs.is_locked(folder))
    assert runs.read_manifest(folder).status == "interrupted"
    kept = contents(home)
    record = activation_file.record(WIDTH).itemsize
    assert any(len(data) < PROMPTS * record for data in kept.values())
    changes = {**OPTIONS, "mode": "full", "settings": {"chunk_tokens": "128"}}
    again = steer("Tiny", "0,0.5,1", home=home, prompts=str(prompts), **changes)
    assert (again.run.run_id, again.run.status) == (folder.name, "done")
    for name, data in contents(home).items():
        whole = len(kept.get(name, b"")) // record * record
        assert data.startswith(kept.get(name, b"")[:whole])
        if len(data) == PROMPTS * record:
            places = np.frombuffer(data, dtype=activation_file.record(WIDTH))["place"]
            assert sorted(places) == list(range(PROMPTS))
