"""Kill a pipeline with a real trainer at random moments, repeat the command, compare the end.

    python -m benchmarks.pipeline_kills --kills 20 [--seed 1] [--minutes 4] [--engine mock]

One uninterrupted `bench train-then-eval` gives the table that all others must end with. Then the
same command is killed (SIGKILL, every other time the whole process group) and repeated: after one
to four kills it is let to its end. What was complete before a kill must be untouched after it, and
the trained weights must be those of the uninterrupted training, byte by byte. The trainer is always
a real one; engine `mock` (which answers slowly) leaves more of the moments to it.
A call with `--minutes` stops in time; a repeated one with the same `--home` adds to the figures,
and so does one beside it with another `--seed`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record
from harness import runs
from harness.types import JSON

RECIPE = """
extends: tiny_sft
epochs: null
max_steps: 12
save_steps: 3
keep_checkpoints: 2
evaluate_at: [6]
data: {sources: [{path: "tunebench:arithmetic_train.jsonl", split: train, take: 64}]}
"""
QUESTIONS = 60


ENGINES = {"hf": [], "mock": ["--engine", "mock", "--engine-set", "delay_s=0.02"]}


def command(place: Path, home: Path) -> list[str]:
    bench = [sys.executable, "-c", "from harness.cli.app import main; main()"]
    asked = ["train-then-eval", str(place / "killed.yaml"), "--limit", str(QUESTIONS)]
    engine = ENGINES[(place / "engine").read_text()]
    return [*bench, *asked, *engine, "--home", str(home), "--json"]


def start(place: Path, home: Path) -> subprocess.Popen[str]:
    with (place / "stderr.log").open("a") as log:
        return subprocess.Popen(
            command(place, home),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def finished(place: Path, home: Path) -> JSON:
    """The table that the command ends with. A killed one's children may hold on for a moment."""
    for _ in range(20):
        child = start(place, home)
        out, _ = child.communicate()
        if child.returncode in (0, 3):
            return table(json.loads(out))
        if child.returncode != 2:
            raise RuntimeError(f"the repeated command ended with {child.returncode}: {place}")
        time.sleep(0.5)
    raise RuntimeError(f"the repeated command was refused each time: see {place}/stderr.log")


def table(found: JSON) -> JSON:
    """What must come out the same: all numbers, without the ids of runs."""
    points = [(one["model"], one["step"], one["score"]) for one in found["checkpoints"]]
    weights = Path(found["train"]["checkpoint"]) / "model.safetensors"
    return {
        "comparison": found["comparison"],
        "points": json.loads(json.dumps(points)),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def killed(place: Path, home: Path, after_s: float, *, group: bool) -> bool:
    """Whether it was still running when it was killed."""
    child = start(place, home)
    try:
        child.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        if group:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.wait()
        return True


def complete(home: Path) -> dict[str, tuple[object, ...]]:
    """Every finished run with what changes where it is repeated."""
    found = {}
    for folder in runs.run_folders(home):
        try:
            run = runs.read_manifest(folder)
        except FileNotFoundError:
            continue
        if run.status == "done":
            answers = folder / runs.COMPLETIONS
            written = answers.stat().st_mtime_ns if answers.exists() else 0
            found[run.run_id] = (run.finished_at, run.outputs_sha256, written)
    return found


def stages(home: Path) -> list[tuple[str, str, str]]:
    """What was completed, to be seen twice where something was repeated."""
    done = [run for run in runs.read_all(home) if run.status == "done"]
    return sorted((run.kind, run.model, run.task) for run in done)


def one_life(place: Path, expected: JSON, seconds: float, chance: random.Random) -> JSON:
    """One pipeline that is killed one to three times and then let to its end."""
    home = place / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    kills, repeated = [], 0
    for _ in range(chance.randint(1, 4)):
        after_s = chance.uniform(0.02, 0.98) * seconds
        before = complete(home)
        if killed(place, home, after_s, group=chance.random() < 0.5):
            kills.append(round(after_s / seconds, 3))
        after = complete(home)
        repeated += sum(after.get(run_id) != value for run_id, value in before.items())
    before = complete(home)
    same = finished(place, home) == expected
    after = complete(home)
    repeated += sum(after.get(run_id) != value for run_id, value in before.items())
    found = stages(home)
    twice = len(found) - len(set(found))
    return {"kills": kills, "same_table": same, "changed": repeated, "done_twice": twice}


def reference(place: Path) -> JSON:
    """The table of an uninterrupted command, and its seconds; kept in the folder."""
    path = place / "reference.json"
    if not path.exists():
        (place / "killed.yaml").write_text(RECIPE)
        home = place / "reference"
        home.mkdir(exist_ok=True)
        began = time.monotonic()
        found = {"table": finished(place, home), "seconds": time.monotonic() - began}
        path.write_text(json.dumps(found))
    kept: JSON = json.loads(path.read_text())
    return kept


def lives_of(place: Path) -> list[dict[str, Any]]:
    """Of all seeds that were run in the folder."""
    return [life for path in sorted(place.glob("lives-*.json")) for life in read_lives(path)]


def read_lives(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=ENGINES, default="hf")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--home", type=Path, default=Path("/tmp/pipeline_kills"))
    asked = parser.parse_args()
    began = time.monotonic()
    place = asked.home / f"seed-{asked.seed}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "engine").write_text(asked.engine)
    known = reference(place)
    kept = asked.home / f"lives-{asked.seed}.json"
    while sum(len(life["kills"]) for life in read_lives(kept)) < asked.kills:
        if time.monotonic() - began > asked.minutes * 60 - 2.5 * known["seconds"]:
            break
        done = read_lives(kept)
        chance = random.Random(f"{asked.seed}:{len(done)}")
        life = one_life(place, known["table"], known["seconds"], chance)
        done.append({"engine": asked.engine, **life})
        kept.write_text(json.dumps(done))
        print(done[-1], file=sys.stderr, flush=True)
    lives = lives_of(asked.home)
    record(
        "pipeline_kills",
        {
            "kills": {
                engine: sum(len(life["kills"]) for life in lives if life["engine"] == engine)
                for engine in ENGINES
            },
            "moments": sorted(moment for life in lives for moment in life["kills"]),
            "pipelines": len(lives),
            "same_final_table": sum(life["same_table"] for life in lives),
            "complete_runs_changed": sum(life["changed"] for life in lives),
            "complete_stages_done_twice": sum(life["done_twice"] for life in lives),
        },
    )


if __name__ == "__main__":
    main()
