r"""How fast the math graders are on one core, and where `math` and math-verify disagree.

    BENCH_DATA_ROOT=… python -m benchmarks.math_graders

Outputs are chains of thought of some 1,500 characters made from the solutions of MATH's test split
(5,000), which end in a boxed answer: the right one as it stands, the right one rewritten
(`\frac{1}{2}` as 0.5, `\dfrac` or `1/2`, with units, names, other bracket sizes, another order), or
a wrong one (a digit changed, the answer of another problem). Each output is graded once, so no
verdict comes from the cache. Writes benchmarks/results/math_graders.json.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from benchmarks.record import record
from harness.rows import read_rows
from harness.scorers import GRADERS, grade, last_boxed, math_pool
from harness.scorers.equivalence import decide
from harness.scorers.extraction import final_answer

_FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")


def outputs(root: Path, seed: int) -> list[tuple[str, str]]:
    """(output, gold answer) of every problem: half right, of which half rewritten; half wrong."""
    generator = random.Random(seed)
    files = sorted((root / "EleutherAI" / "hendrycks_math").glob("*/test*.parquet"))
    solutions = [str(row["solution"]) for file in files for row in read_rows(file)]
    solved = [(text, gold) for text in solutions if (gold := last_boxed(text)) is not None]
    golds = [gold for _, gold in solved]
    made = []
    for text, gold in solved:
        kind = generator.choice(("right", "rewritten", "wrong", "wrong"))
        answer = gold
        if kind == "rewritten":
            answer = generator.choice([*rewritten(gold)])
        elif kind == "wrong":
            answer = wrong(gold, golds, generator)
        thought = text.replace("\\boxed", "")
        thought = thought * (1 + 1_000 // max(len(thought), 1))
        made.append((f"{thought}\n\nThe final answer is $\\boxed{{{answer}}}$.", gold))
    return made


def rewritten(gold: str) -> Iterator[str]:
    yield gold.replace("\\frac", "\\dfrac")
    yield gold.replace(" ", "") if "\\text" not in gold and "\\begin" not in gold else gold
    fraction = _FRACTION.fullmatch(gold)
    if fraction:
        sign, above, below = fraction.groups()
        yield f"{sign}{above}/{below}"
        if 10**6 % int(below) == 0:
            yield f"{float(Fraction(int(above), int(below))):.6f}".rstrip("0")
    if re.fullmatch(r"-?\d+", gold):
        yield from (f"x = {gold}", f"{gold}\\text{{ units}}", f"{int(gold):,}", f"{gold}.0")
    if re.fullmatch(r"[(\[][^()\[\]]*[)\]]", gold):
        yield f"\\left{gold[:-1]}\\right{gold[-1]}"
    if "^\\circ" in gold:
        yield gold.replace("^\\circ", "")
    if re.fullmatch(r"[\w+\- ]+", gold) and " + " in gold and "-" not in gold:
        yield " + ".join(reversed(gold.split(" + ")))


def wrong(gold: str, golds: list[str], generator: random.Random) -> str:
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if not digits or generator.random() < 0.3:
        return generator.choice(golds)
    place = generator.choice(digits)
    return f"{gold[:place]}{(int(gold[place]) + 1) % 10}{gold[place + 1 :]}"


def rate(grader: str, made: list[tuple[str, str]]) -> dict[str, float]:
    """Outputs per second, and the slowest verdict in seconds."""
    math_pool.verdict.cache_clear()
    scorer = GRADERS[grader]
    grade(scorer.name, "\\boxed{\\sin x}", "\\cos x")  # the worker has started
    times = []
    start = time.perf_counter()
    for output, gold in made:
        before = time.perf_counter()
        grade(scorer.name, output, gold)
        times.append(time.perf_counter() - before)
    seconds = time.perf_counter() - start
    return {
        "outputs": len(made),
        "per_second": round(len(made) / seconds, 1),
        "median_ms": round(statistics.median(times) * 1e3, 4),
        "slowest_s": round(max(times), 3),
    }


def agreement(made: list[tuple[str, str]]) -> dict[str, object]:
    differing = [
        (final_answer(output), gold)
        for output, gold in made
        if grade("math", output, gold).value != grade("math_verify", output, gold).value
    ]
    return {
        "outputs": len(made),
        "agree": round(1 - len(differing) / len(made), 5),
        "examples": differing[:20],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and agreement of the math graders.")
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the worker inherits it: one core
    made = outputs(Path(os.environ["BENCH_DATA_ROOT"]), seed)
    few = random.Random(seed).sample(made, 400)
    undecided = [
        decide(answer, gold) is None
        for output, gold in made
        if (answer := final_answer(output)) is not None
    ]
    speeds = {"math": rate("math", made)}
    for grader in ("math_verify", "qwen", "drgrpo_fast", "drgrpo_slow"):
        speeds[grader] = rate(grader, few)
    record(
        "math_graders",
        {
            "cores": 1,
            "left_to_math_verify": round(statistics.mean(undecided), 5),
            "speeds": speeds,
            "math_against_math_verify": agreement(few),
        },
    )


if __name__ == "__main__":
    main()
