"""How often verdicts are wrong by chance, and whether the planner keeps what it promises.

    python -m benchmarks.verdict_calibration

2,000 simulated tables of five benchmarks on which nothing changed: how many hold a false "better"
after Holm's adjustment, for right or wrong answers (the exact test) and for graded ones (the
bootstrap). Then benchmarks of as many questions as `bench power` asks for, with the true difference
that it was asked about: how often it is found, alone and as one of five. Last, a true loss of just
the margin: how often "a loss over 1 point is excluded" is said nevertheless.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from benchmarks.record import record
from harness.compare import Verdict, verdict
from harness.sample_size import questions_needed
from harness.stats import (
    detectable_difference,
    detectable_share_difference,
    holm,
    mean_stderr,
    paired_bootstrap,
    paired_shares,
    share_loss_p,
)

SIZES = (1319, 1273, 500, 100, 40)
"""GSM8K, MedQA, MATH-500, SimpleSafetyTests, AMC23."""
CHANGED = (0.05, 0.15, 0.3)
GRADED_QUESTIONS = 60
RESAMPLES = 1_000
AIMS = ((0.15, 0.02), (0.15, 0.05), (0.05, 0.02), (0.4, 0.03), (0.3, 0.2))
"""Variance of one question's difference, and the true difference."""


def counts(
    generator: np.random.Generator, n: int, changed: float, delta: float = 0.0
) -> tuple[int, int]:
    """Questions won and lost by a model that is truly better by `delta`."""
    shares = ((changed + delta) / 2, (changed - delta) / 2)
    won, lost, _ = generator.multinomial(n, [*shares, 1 - sum(shares)])
    return int(won), int(lost)


def verdicts(answers: Sequence[tuple[int, int, int]]) -> list[Verdict]:
    """The verdicts of one table from (won, lost, n) of each benchmark."""
    tests = [paired_shares(won, lost, n) for won, lost, n in answers]
    adjusted = holm([test.p for test in tests])
    return [
        verdict(test.delta, p, detectable_share_difference(*one))
        for test, p, one in zip(tests, adjusted, answers, strict=True)
    ]


def null_tables(generator: np.random.Generator, tables: int) -> dict[str, float]:
    """Shares of tables in which nothing changed that hold a false verdict."""
    found = {"better": 0, "worse": 0}
    for number in range(tables):
        changed = CHANGED[number % len(CHANGED)]
        table = verdicts([(*counts(generator, n, changed), n) for n in SIZES])
        for name in found:
            found[name] += name in table
    return {f"tables_with_a_false_{name}": count / tables for name, count in found.items()}


def graded_null_tables(generator: np.random.Generator, tables: int) -> dict[str, float]:
    found = {"better": 0, "worse": 0}
    for _ in range(tables):
        drawn = generator.normal(0, 0.3, (len(SIZES), GRADED_QUESTIONS)).round(2)
        rows = [[float(value) for value in row] for row in drawn]
        tests = [paired_bootstrap(row, resamples=RESAMPLES) for row in rows]
        adjusted = holm([test.p for test in tests])
        errors = [detectable_difference(mean_stderr(row)[1], len(row)) for row in rows]
        table = [
            verdict(test.delta, p, least)
            for test, p, least in zip(tests, adjusted, errors, strict=True)
        ]
        for name in found:
            found[name] += name in table
    return {f"tables_with_a_false_{name}": count / tables for name, count in found.items()}


def kept_promise(
    generator: np.random.Generator, tables: int, variance: float, delta: float, family: int
) -> dict[str, float | int | None]:
    """How often the difference is called better with the questions that the planner asks for."""
    needed = questions_needed(variance, delta, alpha=0.05 / family)
    assert needed is not None
    changed = max(delta, variance + delta**2)
    found = 0
    for _ in range(tables):
        others = [(*counts(generator, needed, changed), needed) for _ in range(family - 1)]
        table = verdicts([(*counts(generator, needed, changed, delta), needed), *others])
        found += table[0] == "better"
    return {
        "variance": variance,
        "delta": delta,
        "family": family,
        "questions": needed,
        "promised": 0.8,
        "found": found / tables,
    }


def false_exclusions(generator: np.random.Generator, tables: int) -> dict[str, float]:
    """How often a loss of one point is called excluded where it is exactly that."""
    found = {}
    for n in (500, 1319, 4183, 14042):
        wrong = sum(
            share_loss_p(*counts(generator, n, 0.15, -0.01), n, 0.01) < 0.05 for _ in range(tables)
        )
        found[str(n)] = wrong / tables
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibration of verdicts and of the planner.")
    parser.add_argument("--tables", type=int, default=2_000)
    tables = parser.parse_args().tables
    generator = np.random.default_rng(20261126)
    promises = [
        kept_promise(generator, tables, variance, delta, family)
        for variance, delta in AIMS
        for family in (1, 5)
    ]
    figures = {
        "tables": tables,
        "benchmarks_per_table": len(SIZES),
        "right_or_wrong": null_tables(generator, tables),
        "graded": graded_null_tables(generator, tables),
        "power": promises,
        "largest_gap_to_promise": max(
            abs(float(one["found"] or 0) - float(one["promised"] or 0)) for one in promises
        ),
        "false_exclusions_by_questions": false_exclusions(generator, tables),
    }
    record("verdict_calibration", figures)


if __name__ == "__main__":
    main()
