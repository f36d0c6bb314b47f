r"""What scoring adds to the wall time of a run, beside inference and after it.

    BENCH_DATA_ROOT=… python -m benchmarks.scoring_beside

Two runs each: the first problems of MATH answered by the mock engine at the pace of a 7B model on a
good GPU (20 chains of thought a second, made as `benchmarks.math_graders` makes them) and graded by
`qwen` and `math`; GSM8K answered by Tiny/base with all cores. "added" is how much longer answering
and scoring take together than answering took without grading beside it; once as it is, once with
everything graded after the last answer.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from pathlib import Path

from benchmarks.math_graders import outputs
from benchmarks.record import record
from harness import session
from harness.ahead import Ahead
from harness.evaluate import Options, evaluate
from harness.scorers import math_pool
from harness.types import JSON, Request

SCORE = session.Session._score
PACE = {"answers": "benchmarks.scoring_beside:chain_of_thought", "delay_s": "0.05"}


@functools.cache
def _chains() -> list[str]:
    return [output for output, _ in outputs(Path(os.environ["BENCH_DATA_ROOT"]), seed=1)]


def chain_of_thought(request: Request, index: int) -> str:
    """The mock engine's answer: one of the made outputs, by the question's number."""
    return _chains()[int(request.id.rpartition("-")[2])]


class Clock:
    """Notes when answers began and ended to come."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def note(self, text: str) -> None:
        if "loaded" in text:
            self.first = time.perf_counter()

    def progress(self, model: str, counts: JSON) -> None:
        self.last = time.perf_counter()


def timed(tasks: str, model: str, options: Options, *, ahead: bool) -> tuple[float, float]:
    """Seconds of answering and, after that, of scoring."""
    math_pool.stop_workers()
    math_pool.verdict.cache_clear()
    clock, scoring = Clock(), []

    def score(self: session.Session, run_id: str) -> None:
        began = time.perf_counter()
        SCORE(self, run_id)
        scoring.append(time.perf_counter() - began)

    session.Session._score = score  # type: ignore[method-assign]
    session.Ahead = Ahead if ahead else lambda _: Ahead({})  # type: ignore[misc,assignment]
    with tempfile.TemporaryDirectory() as home:
        (run,) = evaluate(model, tasks, options, home=Path(home), listener=clock)
    assert run.status == "done", run.error
    return clock.last - clock.first, sum(scoring)


def both(tasks: str, model: str, options: Options) -> dict[str, float]:
    answering, after = timed(tasks, model, options, ahead=False)
    with_grading, rest = timed(tasks, model, options, ahead=True)
    return {
        "answering_s": round(answering, 2),
        "scoring_after_s": round(after, 2),
        "added_after": round(after / answering, 4),
        "answering_with_grading_beside_s": round(with_grading, 2),
        "scoring_rest_s": round(rest, 2),
        "added_beside": round((with_grading + rest) / answering - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What scoring adds to a run.")
    parser.add_argument("--limit", type=int, default=800)
    limit = parser.parse_args().limit
    fast = Options(engine="mock", limit=limit, settings=PACE)
    figures = {
        "hendrycks_math:qwen, 20 answers a second": both("hendrycks_math:qwen", "Tiny", fast),
        "gsm8k, Tiny on all cores": both("gsm8k", "Tiny/base", Options(limit=limit // 20)),
    }
    record("scoring_beside", figures)


if __name__ == "__main__":
    main()
