from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.data_check import Report, check
from harness.errors import DataError, UsageError
from harness.registry import tasks
from harness.types import JSON, Dataset


def written(path: Path, rows: list[JSON]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def checked(tmp_path: Path, rows: list[JSON], task: str = "", **columns: Any) -> Report:
    file = written(tmp_path / "data.jsonl", rows)
    dataset = Dataset(path=str(file), split="train")
    return check(dataset, tasks(task) if task else (), **columns)


def found(report: Report) -> dict[str, tuple[int, ...]]:
    return {one.name: one.rows for one in report.findings if one.count}


def test_sound_data_is_called_sound(tmp_path: Path) -> None:
    report = checked(tmp_path, [{"prompt": f"p{i}", "completion": "one two"} for i in range(9)])
    assert report.sound
    assert (report.n, found(report)) == (9, {})
    assert report.lengths == {"prompt": (1,) * 5, "answer": (2,) * 5}


def test_every_fault_names_its_rows(tmp_path: Path) -> None:
    rows = [("a", "x"), ("a", "x"), ("b", "  "), ("c", "y"), ("c", "z"), ("", "w")]
    report = checked(tmp_path, [{"instruction": p, "response": c} for p, c in rows])
    assert found(report) == {
        "duplicates": (2,),
        "prompts with several answers": (4, 5),
        "empty answers": (3,),
        "empty prompts": (6,),
    }
    assert not report.sound


def test_several_answers_to_a_prompt_may_be_wanted(tmp_path: Path) -> None:
    report = checked(tmp_path, [{"prompt": "p", "completion": c} for c in "ab"])
    assert report.sound


def test_conversations_are_read_to_their_last_answer(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi you"}, {"role": "assistant", "content": "hello"}]
    report = checked(tmp_path, [{"messages": turns}, {"messages": turns[:1]}])
    assert found(report) == {"empty answers": (2,), "prompts with several answers": (1, 2)}
    assert report.lengths["prompt"] == (2,) * 5


def test_preferences_that_prefer_nothing_are_found(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "a"}]
    assert found(checked(tmp_path, rows)) == {"chosen equal to rejected": (1,)}


def test_columns_can_be_named_and_a_slip_is_told(tmp_path: Path) -> None:
    rows: list[JSON] = [{"text": "p", "label": "a"}]
    assert checked(tmp_path, rows, prompt="text", answer="label").n == 1
    with pytest.raises(UsageError, match="no column looks like what `--prompt` means"):
        checked(tmp_path, rows)
    with pytest.raises(UsageError, match="no column `labels`") as error:
        checked(tmp_path, rows, prompt="text", answer="labels")
    assert error.value.hint == "did you mean `label`?"


def test_messages_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1 has no list of messages"):
        checked(tmp_path, [{"messages": "hi"}])


def test_questions_of_a_benchmark_are_found(tmp_path: Path) -> None:
    file = Path(__file__).parent.parent / "tasks" / "samples" / "arithmetic.jsonl"
    test = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [{"question": "What else?", "answer": "Nothing."}, test[7], test[3]]
    (overlap,) = checked(tmp_path, rows, "arithmetic").overlaps
    assert (overlap.exact, overlap.ngram) == (2, 2)
    assert set(overlap.first) == {("arithmetic-7", 2), ("arithmetic-3", 3)}


@pytest.mark.data
def test_gsm8k_is_not_clean_of_itself_and_train_holds_no_test_question(data_root: Path) -> None:
    for split, exact in (("train", 0), ("test", 1319)):
        dataset = Dataset(path="openai/gsm8k", config="main", split=split)
        (overlap,) = check(dataset, tasks("gsm8k"), data_root=data_root).overlaps
        assert overlap.exact == exact


def test_the_command_ends_with_1_where_something_is_wrong(tmp_path: Path) -> None:
    file = written(tmp_path / "d.jsonl", [{"prompt": "a", "completion": ""}])
    done = CliRunner().invoke(app, ["data", "check", str(file), "--json"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert (report["n"], report["sound"]) == (1, False)
