from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint

from harness import rejection
from harness.errors import UsageError
from harness.evaluate import Options
from harness.registry import task
from harness.rejection import Filtered, filter_traces, problems
from harness.types import JSON


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return str(write_checkpoint(tmp_path / "teacher"))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def filtered(tmp_path: Path, teacher: str, name: str = "sft.jsonl", **more: Any) -> Filtered:
    options = Options(
        engine="mock",
        limit=3,
        samples=4,
        temperature=1.0,
        home=tmp_path / "home",
        settings={"answers": "mock_answers:teacher"},
    )
    chosen = problems(task("arithmetic"), None, None, "train")
    return filter_traces(chosen, teacher, tmp_path / name, options, say=lambda text: None, **more)


def lines(path: str) -> list[JSON]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_right_answers_are_kept_once_each_and_counted_per_problem(
    tmp_path: Path, teacher: str
) -> None:
    found = filtered(tmp_path, teacher)
    assert (found.problems, found.traces, found.correct, found.repeated) == (3, 12, 4, 1)
    assert found.per_problem == {"arithmetic-0": 2, "arithmetic-1": 1, "arithmetic-2": 0}
    assert (found.kept, found.solved, found.histogram()) == (3, 2, {0: 1, 1: 1, 2: 1})
    first, second, third = lines(found.path)
    assert first["prompt"].startswith("Question: Eva is 2 years old.")
    assert first["prompt"].endswith("\nAnswer:")
    assert [one["completion"] for one in (first, second, third)] == [
        *("#### 8", "So it is 8.\n#### 8", "#### 16")
    ]


def test_every_trace_says_where_it_comes_from(tmp_path: Path, teacher: str) -> None:
    found = filtered(tmp_path, teacher)
    provenance = lines(found.path)[1]["provenance"]
    assert {name: provenance[name] for name in ("run_id", "sample_id", "sample_index")} == {
        "run_id": found.run_id,
        "sample_id": "arithmetic-0",
        "sample_index": 2,
    }
    assert (provenance["teacher"], provenance["answer"]) == (teacher, "8")
    assert provenance["sampling"]["n"] == 4


def test_the_shortest_traces_are_kept_where_not_all_are_wanted(
    tmp_path: Path, teacher: str
) -> None:
    found = filtered(tmp_path, teacher, most=1)
    assert [one["completion"] for one in lines(found.path)] == ["#### 8", "#### 16"]


def test_the_teacher_is_not_asked_twice(tmp_path: Path, teacher: str) -> None:
    first, second = (filtered(tmp_path, teacher, name) for name in ("a.jsonl", "b.jsonl"))
    assert first.run_id == second.run_id
    assert Path(first.path).read_bytes() == Path(second.path).read_bytes()


def test_a_file_is_never_overwritten(tmp_path: Path, teacher: str) -> None:
    filtered(tmp_path, teacher)
    with pytest.raises(UsageError, match="is there already"):
        filtered(tmp_path, teacher)


@pytest.mark.parametrize(
    ("name", "split", "data", "message"),
    [
        ("medqa", "train", None, "only chooses"),
        ("simple_safety_tests", "train", None, "read by a judge"),
        ("arithmetic", "test", "tunebench:arithmetic.jsonl", "a model would learn the benchmark"),
        ("gsm8k", "test", None, "a model would learn the benchmark"),
    ],
)
def test_what_nothing_could_be_learnt_from_is_refused(
    name: str, split: str, data: str | None, message: str
) -> None:
    config = "main" if name == "gsm8k" else None
    with pytest.raises(UsageError, match=message):
        problems(task(name), data, config, split)


def test_problems_come_from_where_the_examples_are_drawn() -> None:
    found = problems(task("arithmetic"), None, None, "train")
    assert found.dataset.path == "tunebench:arithmetic_train.jsonl"
    assert found.id == f"arithmetic:{rejection.FILTERED}"
