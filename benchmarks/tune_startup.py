"""What a trial of `bench tune` pays before its first training step and before its first answer.

    python -m benchmarks.tune_startup [--trials 6]

The first trial of a worker starts both of its processes; those after it find the start model read
and an engine running. The figures are those of table `trials`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.record import record
from harness import evaluate, store
from harness.tuning.plan import Options
from harness.tuning.tune import tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=6)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory(prefix="tunebench-") as name:
        home = Path(name)
        settings = {"search.evaluations": "2", "search.pruner": "none", "max_steps": "4"}
        options = Options(
            settings={**settings, "search.questions": "20"},
            trials=trials,
            evaluation=evaluate.Options(home=home, limit=20, engine="hf"),
        )
        tune("tiny_tune", options)
        _, rows = store.query(
            home, "SELECT training_start_s, engine_start_s FROM trials ORDER BY trial"
        )
    starts = [float(training) + float(engine) for training, engine in rows]
    later = starts[1:]
    record(
        "tune_startup",
        {
            "training_start_s": [round(float(row[0]), 3) for row in rows],
            "engine_start_s": [round(float(row[1]), 3) for row in rows],
            "first_s": round(starts[0], 3),
            "later_median_s": round(statistics.median(later), 3),
            "later_most_s": round(max(later), 3),
            "share_median": round(statistics.median(later) / starts[0], 4),
            "share_most": round(max(later) / starts[0], 4),
            "target": "at most 0.2",
        },
    )


if __name__ == "__main__":
    main()
