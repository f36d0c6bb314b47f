"""Halves of a benchmark: nothing in both, everything in one, every group in both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import registry, runs
from harness.errors import UsageError
from harness.evaluate import evaluate
from harness.halves import places
from harness.questions import questions
from harness.types import Sample

TASK = registry.task("arithmetic")


def samples(*groups: str) -> list[Sample]:
    return [Sample(id=f"q{i}", input="", target="", group=g) for i, g in enumerate(groups)]


def test_every_question_is_in_exactly_one_half() -> None:
    asked = samples(*"aaabbbbbcdde")
    tuning, report = (places(TASK, asked, half) for half in ("tuning", "report"))
    assert sorted([*tuning, *report]) == list(range(12))
    assert (len(tuning), len(report)) == (6, 6)


def test_every_group_is_halved() -> None:
    asked = samples(*"a" * 10, *"b" * 6)
    tuning = [asked[place].group for place in places(TASK, asked, "tuning")]
    assert (tuning.count("a"), tuning.count("b")) == (5, 3)


def test_questions_that_hang_together_stay_together() -> None:
    asked = samples(*"a" * 10, *"b" * 6, *"c" * 2, *"d")
    tuning = {
        asked[place].group for place in places(replace(TASK, clustered=True), asked, "tuning")
    }
    report = {
        asked[place].group for place in places(replace(TASK, clustered=True), asked, "report")
    }
    assert tuning.isdisjoint(report)
    assert (len(tuning), len(report)) == (2, 2)


def test_the_half_of_a_question_depends_on_nothing_but_its_id() -> None:
    asked = samples(*"a" * 40)
    half = {asked[place].id for place in places(TASK, asked, "tuning")}
    turned = asked[::-1]
    assert {turned[place].id for place in places(TASK, turned, "tuning")} == half
    other = replace(TASK, variant="other", version=9)
    assert {asked[place].id for place in places(other, asked, "tuning")} == half


def test_a_limit_cuts_within_the_half() -> None:
    half = questions(TASK, half="report")
    few = questions(TASK, half="report", limit=30)
    assert (len(half.samples), half.limit) == (250, 250)
    assert (len(few.samples), few.limit) == (30, 30)
    assert {one.id for one in few.samples} <= {one.id for one in half.samples}


def test_a_run_over_a_half_says_so_and_is_of_another_protocol(tmp_path: Path) -> None:
    whole, tuning, report = (
        evaluate("Tiny", "arithmetic", engine="mock", half=half, home=tmp_path)[0]
        for half in (None, "tuning", "report")
    )
    assert [one.flags for one in (whole, tuning, report)] == [
        (),
        ("half=tuning",),
        ("half=report",),
    ]
    assert len({whole.protocol, tuning.protocol, report.protocol}) == 3
    assert (tuning.limit_n, report.n_samples) == (250, 250)
    ids = [set(_asked(tmp_path, one.run_id)) for one in (tuning, report)]
    assert ids[0].isdisjoint(ids[1])


def _asked(home: Path, run_id: str) -> list[str]:
    return [one["id"] for one in runs.read_requests(runs.folder_of(home, run_id))]


def test_prompts_that_are_compared_with_each_other_have_no_halves() -> None:
    with pytest.raises(UsageError, match="have no halves"):
        questions(registry.task("aqi"), half="tuning", offline=True)
