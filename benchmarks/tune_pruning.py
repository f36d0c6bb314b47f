"""How many optimiser steps 20 tiny trials take with ASHA, and without a pruner.

    python -m benchmarks.tune_pruning

Real trainings of Tiny/base of 18 steps, judged nine times by the loss of held-out examples. Both
searches draw the same values (sampler `random`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import record
from harness import evaluate
from harness.tuning.plan import Options
from harness.tuning.tune import tune

SETTINGS = {
    "search.objective": "loss",
    "search.questions": "null",
    "search.sampler": "random",
    "max_steps": "18",
    "tasks": "[]",
}


def main() -> None:
    pruned, whole = (_search(pruner) for pruner in ("asha", "none"))
    record(
        "tune_pruning",
        {
            "trials": 20,
            "steps_with_asha": pruned["steps"],
            "steps_without": whole["steps"],
            "share": round(pruned["steps"] / whole["steps"], 4),
            "target": "at most 0.5",
            "best_loss_with_asha": pruned["best"],
            "best_loss_without": whole["best"],
            "last_steps": pruned["last_steps"],
        },
    )


def _search(pruner: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tunebench-") as name:
        options = Options(
            settings={**SETTINGS, "search.pruner": pruner},
            trials=20,
            evaluation=evaluate.Options(home=Path(name)),
        )
        done = tune("tiny_tune", options)
    assert done.best is not None, "a trial ran to its end"
    last = [int(one["last_step"]) for one in done.trials]
    return {"steps": sum(last), "best": round(float(done.best["value"]), 4), "last_steps": last}


if __name__ == "__main__":
    main()
