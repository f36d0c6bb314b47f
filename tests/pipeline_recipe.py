"""A recipe whose trainer is a program: it leaves a checkpoint, and one on the way at step 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint

from harness import models
from harness.types import JSON

PROGRAM = """
import json, pathlib, shutil, sys
folder, model = map(pathlib.Path, sys.argv[1:3])
for target, weights in (("checkpoints/checkpoint-1", "w1"), ("checkpoint", "w2")):
    shutil.copytree(model, folder / target)
    (folder / target / "generation_config.json").write_text(json.dumps({"of": weights}))
print("step 1 loss 2.0", "step 2 loss 1.0", sep="\\n")
"""
FAILS = "import sys; print('CUDA out of memory'); sys.exit(1)"

QUESTIONS = 40
ASK: JSON = {
    "engine": "mock",
    "limit": QUESTIONS,
    "settings": {"answers": "pipeline_answers:answer"},
}
ASK_ARGUMENTS = [
    *("--engine", "mock", "--engine-set", "answers=pipeline_answers:answer"),
    *("--limit", str(QUESTIONS)),
]


def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the model `Base`, whose fine-tunes are right (or, with AFTER=wrong, wrong)."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("BENCH_HOME", str(place))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("AFTER", "right")
    models.add("Base", {"path": str(write_checkpoint(tmp_path / "base"))}, place, replace=False)
    return place


def recipe(home: Path, program: str = PROGRAM, **changes: Any) -> str:
    data = home / "train.jsonl"
    data.write_text('{"prompt": "Say four.", "completion": "four"}\n')
    values: JSON = {
        "method": "command",
        "model": "Base",
        "device": "cpu",
        "precision": "fp32",
        "tasks": ["arithmetic"],
        "data": {"sources": [{"path": str(data)}], "template": "question_only"},
        "optimizer": {"learning_rate": 1e-3},
        "max_steps": 2,
        "params": {
            "command": [sys.executable, "-c", program, "{folder}", "{model}"],
            "step_pattern": r"step (?P<step>\d+) loss (?P<loss>\S+)",
        },
        **changes,
    }
    path = home / "mine.yaml"
    path.write_text(json.dumps(values))
    return str(path)
