"""Models that share a worker, when that worker dies over one of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import pids_of

from harness.evaluate import evaluate
from harness.session import Silent
from harness.types import JSON


class Killer(Silent):
    """Kills the worker when the first model has some of its answers."""

    def __init__(self, home: Path) -> None:
        self._home = str(home)
        self.killed: list[int] = []

    def progress(self, model: str, counts: JSON) -> None:
        if not self.killed and counts["done"] >= 5:
            self.killed = [int(pid) for pid in pids_of(f"harness.engines.worker.*{self._home}")]
            for pid in self.killed:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_model_that_kills_the_worker_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    killer = Killer(tmp_path)
    first, second = evaluate(
        "Tiny/base,Tiny/instruct",
        "arithmetic",
        engine="hf",
        settings={"device": "cpu", "batch_size": "8"},
        limit=40,
        offline_sample=True,
        home=tmp_path,
        listener=killer,
    )
    assert len(killer.killed) == 1
    assert (first.status, first.cause) == ("interrupted", "killed")
    assert second.status == "done"
