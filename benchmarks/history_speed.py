"""How fast the history is with a million samples.

    python -m benchmarks.history_speed

Builds run folders of 14,042 samples with prompts of about 3,000 characters (the size of a 5-shot
MMLU run) until there are a million, and measures writing one, taking one in, and the leaderboard
in a new process, imports included. Writes benchmarks/results/history_speed.json.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks.record import record
from harness import runs, store
from harness.metrics import summarise
from harness.types import JSON, Run, Score, Scored, to_json

SAMPLES_PER_RUN = 14_042
REPOSITORY = Path(__file__).resolve().parent.parent

LEADERBOARD = """
import sys
from harness import store
rows = store.query(sys.argv[1], "SELECT * FROM leaderboard")[1]
print(len(rows))
"""
WRITE_AND_INGEST = """
import json, sys
from pathlib import Path
from typing import TypeVar
from benchmarks.history_speed import peak_mb, sample_rows, timed, written
from harness import store
home = Path(sys.argv[1])
rows_s, _ = timed(lambda: sum(1 for _ in sample_rows(999)))
write_s, run_id = timed(lambda: written(home, 999, "timed"))
ingest_s, _ = timed(lambda: store.ingest(home, run_id))
again_s, _ = timed(lambda: store.ingest(home, run_id))
times = {"write_s": write_s - rows_s, "ingest_s": ingest_s, "again_s": again_s}
print(json.dumps({**times, "peak_mb": peak_mb()}))
"""


def sample_rows(seed: int) -> Iterator[JSON]:
    """Rows as scoring yields them: a prefix per subject, a question of its own, four choices."""
    generator = random.Random(seed)
    words = ("which", "of", "the", "following", "statements", "about", "energy", "is", "true")
    prefixes = [" ".join(generator.choices(words, k=430)) for _ in range(57)]
    for i in range(SAMPLES_PER_RUN):
        logprobs = [-generator.expovariate(0.5) for _ in range(4)]
        subject = i * 57 // SAMPLES_PER_RUN
        yield {
            "sample_id": f"subject_{subject}/{i}",
            "sample_index": 0,
            "group_name": f"subject_{subject}",
            "prompt": f"{prefixes[subject]}\n{' '.join(generator.choices(words, k=60))}\nAnswer:",
            "output": "ABCD"[logprobs.index(max(logprobs))],
            "target": "ABCD"[i % 4],
            "answer": "ABCD"[logprobs.index(max(logprobs))],
            "score": float(logprobs.index(max(logprobs)) == i % 4),
            "parsed": True,
            "truncated": False,
            "finish_reason": "scored",
            "prompt_tokens": 700,
            "completion_tokens": 0,
            "choice_logprobs": logprobs,
            "grader": "choice_logprob@1",
            "explanation": "",
        }


def written(home: Path, number: int, model: str) -> str:
    """A finished run folder; its id."""
    run_id = f"20260101T000000Z-eval-{model}-mmlu-{number:06x}"
    folder = runs.folder_of(home, run_id)
    folder.mkdir(parents=True)
    store.write_samples(folder, sample_rows(number))
    shared_files(home, run_id, model)
    return run_id


def copied(home: Path, source: str, number: int, model: str) -> str:
    """The same samples under another id, which is much quicker than writing new ones."""
    run_id = f"20260101T000000Z-eval-{model}-mmlu-{number:06x}"
    folder = runs.folder_of(home, run_id)
    folder.mkdir(parents=True)
    shutil.copyfile(runs.folder_of(home, source) / runs.SAMPLES, folder / runs.SAMPLES)
    shared_files(home, run_id, model)
    return run_id


def shared_files(home: Path, run_id: str, model: str) -> None:
    score = Score(value=1.0, answer="A", grader="choice_logprob", version=1)
    scored = [
        Scored(sample_id=str(i), index=0, group=f"subject_{i % 57}", score=score, truncated=False)
        for i in range(570)
    ]
    measures = [to_json(measure) for measure in summarise("acc", scored)]
    (runs.folder_of(home, run_id) / runs.MEASURES).write_text(json.dumps(measures))
    stamp = datetime.now(UTC).isoformat()
    run = Run(
        run_id=run_id,
        kind="eval",
        status="done",
        model=model,
        task="mmlu",
        protocol="p",
        primary_metric="acc",
        n_samples=SAMPLES_PER_RUN,
        started_at=stamp,
        finished_at=stamp,
    )
    runs.write_manifest(home, run)


T = TypeVar("T")


def timed(action: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def peak_mb() -> float:
    """Largest resident memory so far; `ru_maxrss` would begin with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_new_process(code: str, *arguments: str) -> tuple[float, str]:
    """Seconds from start to end of a Python process, and what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    seconds, done = timed(
        lambda: subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
    )
    return seconds, done.stdout


def measured(home: Path, total: int) -> JSON:
    n_runs = -(-total // SAMPLES_PER_RUN)
    first = written(home, 0, "m0")
    for number in range(1, n_runs):
        copied(home, first, number, f"m{number % 20}")
    rebuild_s, _ = timed(lambda: store.rebuild(home))
    ((n_samples,),) = store.query(home, "SELECT count(*) FROM samples")[1]
    queries = [in_new_process(LEADERBOARD, str(home))[0] for _ in range(5)]
    _, printed = in_new_process(WRITE_AND_INGEST, str(home))
    one = json.loads(printed)
    a, b = first, f"20260101T000000Z-eval-m1-mmlu-{1:06x}"
    flips = f"SELECT flip, count(*) FROM flips WHERE run_a = '{a}' AND run_b = '{b}' GROUP BY ALL"
    flips_s, _ = timed(lambda: store.query(home, flips))
    return {
        "runs": n_runs,
        "samples": n_samples,
        "database_mb": store.database(home).stat().st_size / 1e6,
        "rebuild_s": rebuild_s,
        "leaderboard_new_process_s": {"median": statistics.median(queries), "max": max(queries)},
        "write_14042_s": one["write_s"],
        "ingest_14042_s": one["ingest_s"],
        "ingest_again_s": one["again_s"],
        "writer_peak_mb": one["peak_mb"],
        "flips_of_two_runs_s": flips_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the history with many samples.")
    parser.add_argument("--samples", type=int, default=1_000_000)
    total = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as home:
        result = measured(Path(home), total)
    rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 3))
    record("history_speed", rounded)


if __name__ == "__main__":
    main()
