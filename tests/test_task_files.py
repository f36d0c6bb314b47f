"""Tasks in a user's own file: the one in docs/tasks.md, and files that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoint_folder import write_checkpoint

from harness import registry
from harness.errors import DataError, UsageError
from harness.evaluate import evaluate
from harness.questions import questions
from harness.task_check import check_gold

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "tasks.md"
HEADER = (
    "from harness.registry import task\nfrom dataclasses import replace\ngsm8k = task('gsm8k')\n"
)


def shown(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "questions.jsonl").write_text(shown("json"), "utf-8")
    path = tmp_path / "times_tables.py"
    path.write_text(shown("python"), "utf-8")
    return path


def test_task_of_the_guide_takes_at_most_30_lines(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= 30


def test_task_of_the_guide_asks_and_grades_its_own_questions(file: Path) -> None:
    asked = questions(registry.task(str(file)))
    assert [sample.target for sample in asked.samples] == ["144", "56", "1,000"]
    assert next(asked.requests()).prompt == "Question: What is 12 * 12?\nAnswer:"
    assert check_gold(asked).wrong == ()


def test_task_of_the_guide_is_evaluated_beside_others(file: Path, tmp_path: Path) -> None:
    model = str(write_checkpoint(tmp_path / "model"))
    found = evaluate(
        model, f"{file},gsm8k", engine="mock", offline_sample=True, home=tmp_path / "home"
    )
    assert [(run.task, run.status) for run in found] == [
        ("times_tables", "done"),
        ("gsm8k", "done"),
    ]


def test_bad_row_of_a_users_file_is_named(file: Path) -> None:
    data = file.with_name("questions.jsonl")
    data.write_text(data.read_text("utf-8").replace('"56"', "56"), "utf-8")
    with pytest.raises(DataError, match=r"row 2 of .*`answer` should hold text"):
        questions(registry.task(str(file)))


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("TASKS = ()", "has no tuple of tasks called TASKS", "TASKS = (task,)"),
        ("TASK = 1", "has no tuple of tasks called TASKS", "TASKS = (task,)"),
        ("import nowhere_at_all", "cannot be loaded: No module named", "docs/tasks.md"),
        ("TASKS = (", "cannot be loaded: '(' was never closed", "docs/tasks.md"),
        (HEADER + "TASKS = (gsm8k,)", "two tasks are called `gsm8k`", "rename one"),
        (
            HEADER + "TASKS = (replace(gsm8k, name='a'), replace(gsm8k, name='b'))",
            "holds several tasks: `a`, `b`",
            "leave one of them",
        ),
    ],
)
def test_file_that_cannot_be_used_is_refused(
    content: str, message: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content, "utf-8")
    with pytest.raises(UsageError) as raised:
        registry.task(str(path))
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no task file `nowhere/mine\.py`"):
        registry.tasks("gsm8k,nowhere/mine.py")


def test_several_tasks_of_a_file_are_all_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEADER + "TASKS = (replace(gsm8k, name='a'), replace(gsm8k, name='b'))")
    assert [task.id for task in registry.tasks(f"{path},gsm8k")] == ["a", "b", "gsm8k"]
