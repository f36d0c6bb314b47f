"""Other processes in tests: found by a word of their command line, waited for without sleeping."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any


def wait_for(condition: Any, timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        os.sched_yield()
    raise AssertionError("waited in vain")


def pids_of(word: str) -> list[str]:
    found = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True, check=False)
    return found.stdout.split()
