"""Answers of the mock engine, whose process is killed at the first question that it ever gets."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from harness.types import Request


def answer(request: Request, index: int) -> str:
    mark = Path(os.environ["DIES_ONCE"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "#### 4"
