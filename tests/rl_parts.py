"""Recipes, problems and models for tests of methods that learn from their own completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

import harness
from harness import registry
from harness.trainer import RECIPE, STEPS, TRAIN
from harness.types import JSON, Optimizer, Recipe, Sample, to_json
from tasks.arithmetic_problems import problems

TINY = Path(harness.__file__).parent / "tiny" / "base"
PARAMS: JSON = {"reward": "arithmetic", "max_tokens": 40}


def short_samples(n: int) -> list[Sample]:
    """Questions of one step and few words, of which the base model answers a third right."""
    rows = [
        row
        for row in problems(200, 400)
        if row["answer"].count("\n") == 1 and len(row["question"]) < 80
    ]
    to_sample = registry.task("arithmetic").to_sample
    return [to_sample(row, index) for index, row in enumerate(rows[:n])]


def recipe(method: str, *, params: JSON | None = None, **changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "method": method,
        "model": "Tiny/base",
        "model_path": str(TINY),
        "precision": "fp32",
        "device": "cpu",
        "optimizer": Optimizer(learning_rate=2e-4, schedule="constant", beta2=0.95),
        "max_steps": 1,
        "global_batch_size": 8,
        "micro_batch_size": 8,
        "params": PARAMS | (params or {}),
    }
    return Recipe(**(settings | changes))


def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(TINY)


def model() -> Any:
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)


def prepared(folder: Path, recipe: Recipe) -> Path:
    """The folder of a training, as the command line would make it."""
    folder.mkdir(exist_ok=True)
    (folder / RECIPE).write_text(json.dumps(to_json(recipe)), encoding="utf-8")
    lines = [json.dumps(line) + "\n" for line in problem_lines(8)]
    (folder / TRAIN).write_text("".join(lines), encoding="utf-8")
    return folder


def problem_lines(n: int) -> list[JSON]:
    """What train.jsonl holds of the samples."""
    return [{"prompt": sample.input, "sample": to_json(sample)} for sample in short_samples(n)]


def measured(folder: Path, metric: str) -> list[tuple[int, float]]:
    """The steps at which a measure was logged, with its values."""
    lines = (folder / STEPS).read_text(encoding="utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    return [(line["step"], line["value"]) for line in read if line["metric"] == metric]
