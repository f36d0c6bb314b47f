"""Run folders made without a model, for tests of what comes after one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness import runs
from harness.metrics import summarise
from harness.store import write_samples
from harness.types import JSON, Run, Score, Scored, to_json

PARTS = {"task": "gsm8k", "shots": 5, "limit": None, "prompts": "aa"}


def row(sample_id: str, score: float = 1.0, **changes: Any) -> JSON:
    """A row for samples.parquet."""
    return {
        "sample_id": sample_id,
        "sample_index": 0,
        "group_name": "",
        "prompt": "2+2?",
        "output": "4",
        "target": "4",
        "answer": "4",
        "score": score,
        "parsed": True,
        "truncated": False,
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "choice_logprobs": [],
        "grader": "number@1",
        "explanation": "",
        **changes,
    }


def finished_run(
    home: Path,
    run_id: str,
    rows: Iterable[JSON] = (),
    *,
    measures: bool = True,
    **changes: Any,
) -> Run:
    """A run folder as `bench eval` leaves it; changes are fields of the manifest."""
    rows = list(rows)
    folder = runs.folder_of(home, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    if rows:
        write_samples(folder, rows)
        if measures:
            found = summarise("exact_match", [_scored(item) for item in rows])
            (folder / "measures.json").write_text(json.dumps([to_json(m) for m in found]))
    fields: dict[str, Any] = {
        "kind": "eval",
        "status": "done",
        "model": "base",
        "task": "gsm8k",
        "protocol": "p1",
        "protocol_parts": PARTS,
        "primary_metric": "exact_match",
        "n_samples": len(rows),
        "engine": "mock",
        "dtype": "float32",
        "started_at": "2026-01-01T00:00:00.000Z",
        "finished_at": "2026-01-01T00:01:00.000Z",
    }
    return runs.write_manifest(home, Run(run_id=run_id, **{**fields, **changes}))


def scores(values: Sequence[float]) -> list[JSON]:
    return [row(f"q{i}", score) for i, score in enumerate(values)]


def _scored(item: JSON) -> Scored:
    score = Score(value=item["score"], answer=item["answer"], grader="number", version=1)
    return Scored(
        sample_id=item["sample_id"],
        index=item["sample_index"],
        group=item["group_name"],
        score=score,
        truncated=item["truncated"],
    )
