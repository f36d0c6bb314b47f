"""Answers for the mock engine: half right before a checkpoint is there, then as AFTER says."""

from __future__ import annotations

import os
from pathlib import Path

from harness.types import Request


def answer(request: Request, index: int) -> str:
    number = int(request.id.rpartition("-")[2])
    trained = any(Path(os.environ["BENCH_HOME"]).glob("runs/*-train-*/checkpoint/config.json"))
    right = number % 2 == 0 if not trained else os.environ["AFTER"] == "right"
    # The few questions of `arithmetic` that the tests ask have these answers.
    return f"#### {gold(request)}" if right else "#### -1"


def gold(request: Request) -> str:
    import json

    number = int(request.id.rpartition("-")[2])
    file = Path(__file__).parent.parent / "tasks" / "samples" / "arithmetic.jsonl"
    row = json.loads(file.read_text(encoding="utf-8").splitlines()[number])
    return str(row["answer"]).rpartition("####")[2].strip()
