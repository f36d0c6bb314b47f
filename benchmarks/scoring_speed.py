"""How fast saved answers are scored, and with how much memory.

    python -m benchmarks.scoring_speed --data-root ../shared/hub

Plans MMLU (14,042 questions of four choices, five examples each), answers it with the mock engine
and scores it several times: in all, and without reading and writing files. Then 35,200 long
answers (sixteen to each of 2,200 questions, 200 MB) are scored in a process of their own, whose
peak memory is taken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.record import record
from harness import runs
from harness.metrics import summarise
from harness.plan import write_plan
from harness.questions import questions
from harness.registry import task as find_task
from harness.score import answers, graded, score, scored
from harness.task import Task
from harness.types import Completion, to_json

REPEATS = 7
LONG = "from this the next step of the solution follows, as was shown " * 90 + "#### 4"
PEAK = """
import sys, time
from pathlib import Path
from harness.registry import task
from harness.score import score
begun = time.perf_counter()
score(Path(sys.argv[1]), task("gsm8k"))
seconds = time.perf_counter() - begun
status = Path("/proc/self/status").read_text()
print(seconds, int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def seconds_of(action: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds: the median and the least of some repetitions."""
    wall, cpu = [], []
    for _ in range(REPEATS):
        began, began_cpu = time.perf_counter(), time.process_time()
        action()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return {
        "wall_s": round(statistics.median(wall), 3),
        "least_wall_s": round(min(wall), 3),
        "cpu_s": round(statistics.median(cpu), 3),
    }


def answered(folder: Path, task: Task, data_root: Path | None) -> int:
    """Plan a task in a run folder and answer it by a rule; the number of questions."""
    plan = write_plan(questions(task, data_root=data_root), folder / runs.REQUESTS)
    with (folder / runs.COMPLETIONS).open("w", encoding="ascii") as file:
        for number, request in enumerate(runs.read_requests(folder)):
            logprobs = [-((number * 7 + i * 13) % 29) / 7.3 - 0.1 for i in range(4)]
            completion = Completion(
                request_id=request["id"],
                finish_reason="scored",
                prompt_tokens=700,
                choice_logprobs=tuple(logprobs),
                choice_greedy=tuple(value == max(logprobs) for value in logprobs),
            )
            file.write(json.dumps(to_json(completion)) + "\n")
    return plan.n_samples


def choices(folder: Path, data_root: Path | None) -> dict[str, object]:
    task = find_task("mmlu")
    n = answered(folder, task, data_root)
    held = [(sample, completion) for _, sample, completion in answers(folder)]
    (scorer,) = task.scorers

    def without_files() -> None:
        summarise(scorer.metric, [scored(s, c, graded(scorer, s, c)) for s, c in held])

    return {
        "questions": n,
        "score": seconds_of(lambda: score(folder, task)),
        "grades_and_measures_alone": seconds_of(without_files),
    }


def long_answers(folder: Path) -> dict[str, float]:
    task = find_task("gsm8k")
    sampling = to_json(replace(task.sampling, n=16, temperature=1.0))
    with (folder / runs.REQUESTS).open("w") as file:
        for number in range(2_200):
            asked = {"target": "#### 4", "choices": [], "group": ""}
            request = {"id": f"q{number}", "kind": "generate", "prompt": "?", "sampling": sampling}
            file.write(json.dumps({**request, "sample": asked}) + "\n")
    with (folder / runs.COMPLETIONS).open("w") as file:
        for number in range(2_200):
            for index in range(16):
                completion = Completion(
                    request_id=f"q{number}",
                    index=index,
                    text=LONG,
                    finish_reason="stop",
                    prompt_tokens=1,
                )
                file.write(json.dumps(to_json(completion)) + "\n")
    size = (folder / runs.COMPLETIONS).stat().st_size
    command = [sys.executable, "-c", PEAK, str(folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, printed.split())
    return {"answers_mb": round(size / 1e6), "score_s": round(seconds, 1), "peak_mb": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of scoring.")
    parser.add_argument("--data-root", type=Path, default=None)
    data_root = parser.parse_args().data_root
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        figures = {"mmlu": choices(Path(one), data_root), "long": long_answers(Path(other))}
    record("scoring_speed", figures)


if __name__ == "__main__":
    main()
