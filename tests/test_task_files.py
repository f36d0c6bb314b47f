"""Tasks in a user's own file: the one in docs/tasks.md, and files that cannot be used."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_folder import write_checkpoint

from harness import registry, runs
from harness.errors import DataError, UsageError
from harness.evaluate import evaluate, resume
from harness.questions import questions
from harness.rescore import rescore
from harness.task_check import check_gold
from harness.types import Run

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


def test_a_run_of_a_file_is_graded_again_by_the_file_as_it_is_now(
    file: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    model = str(write_checkpoint(tmp_path / "model"))
    (run,) = evaluate(model, str(file), engine="mock", home=home)
    assert run.task_file == str(file)
    text = file.read_text("utf-8").replace("scorers=(NUMBER,)", "scorers=(NUMBER, MATH)")
    file.write_text(text.replace("import NUMBER", "import MATH, NUMBER"), "utf-8")
    rescore(home, run.run_id)
    metrics = {measure["metric"] for measure in json.loads(measures_of(home, run))}
    assert {"number_match", "math@1"} <= metrics


def test_a_run_of_a_file_is_resumed_from_it(file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    model = str(write_checkpoint(tmp_path / "model"))
    (run,) = evaluate(model, str(file), engine="mock", home=home)
    runs.write_manifest(home, replace(run, status="interrupted"))
    again = resume(run.run_id, home)
    assert (again.status, again.n_samples) == ("done", 3)


def test_a_file_that_is_gone_or_has_another_task_is_told(file: Path, tmp_path: Path) -> None:
    run = Run(run_id="x", kind="eval", status="done", task="times_table", task_file=str(file))
    with pytest.raises(UsageError, match="no longer has a task `times_table`") as told:
        registry.task_of(run)
    assert told.value.hint == "did you mean `times_tables`?"
    file.unlink()
    with pytest.raises(UsageError, match="which is gone"):
        registry.task_of(run)


def measures_of(home: Path, run: Run) -> str:
    return (runs.folder_of(home, run.run_id) / runs.MEASURES).read_text("utf-8")
