"""Grading saved answers again, and where graders differ."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from checkpoint_folder import write_checkpoint
from click.testing import Result
from typer.testing import CliRunner

from harness import registry, runs, score, scorers, store
from harness.cli.score import score as score_command
from harness.disagreements import disagreements
from harness.errors import StoreError, UsageError
from harness.evaluate import evaluate
from harness.rescore import rescore
from harness.score import GraderError
from harness.task import Scorer, Task
from harness.types import JSON, Completion, Run, Sample, Score, to_json

RUN = "20260101T000000Z-eval-m-gsm8k-abcdef"

# What gsm8k_strict reads first, gsm8k_flexible last: they differ on q1 and q3.
OUTPUTS = {
    "q0": ["#### 4", "#### 5"],
    "q1": ["It is 4.", "#### 4"],
    "q2": ["no idea", "#### 4"],
    "q3": ["#### 4 or 9", "#### 4"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generous:
    """Everything is right; reads the whole text."""

    name: str = "generous"
    metric: str = "exact_match"
    version: int = 1
    value: float = 1.0

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text
        return Score(value=self.value, answer=text, grader=self.name, version=self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    name: str = "broken"
    metric: str = "exact_match"
    version: int = 1
    at: str = "q2"

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        if self.at in ("", sample.id):
            raise ZeroDivisionError("by nothing")
        return Score(value=1.0, answer="", grader=self.name, version=self.version)


def gsm8k(*, n: int = 1, **changes: Any) -> Task:
    found = registry.task("gsm8k")
    sampling = replace(found.sampling, n=n, temperature=1.0 if n > 1 else 0.0)
    return replace(found, sampling=sampling, **changes)


def write_folder(home: Path, task: Task, outputs: dict[str, list[str]]) -> Path:
    """A run folder with answers, as a worker leaves it."""
    folder = runs.folder_of(home, RUN)
    folder.mkdir(parents=True)
    sampling = to_json(task.sampling)
    with (folder / runs.REQUESTS).open("w") as file:
        for name in outputs:
            asked = {"target": "#### 4", "choices": [], "group": "", "tags": ["easy"]}
            request = {"id": name, "kind": "generate", "prompt": f"{name}?", "sampling": sampling}
            file.write(json.dumps({**request, "sample": asked}) + "\n")
    with (folder / runs.COMPLETIONS).open("w") as file:
        for name, texts in reversed(outputs.items()):
            for index, text in enumerate(texts[: task.sampling.n]):
                file.write(json.dumps(to_json(completion(name, index, text))) + "\n")
    return folder


def completion(name: str, index: int, text: str) -> Completion:
    return Completion(
        request_id=name,
        index=index,
        text=text,
        finish_reason="stop",
        prompt_tokens=3,
        completion_tokens=2,
    )


def write_run(home: Path, task: Task, **changes: Any) -> Run:
    fields: JSON = {
        "status": "done",
        "model": "m",
        "task": "gsm8k",
        "task_version": task.version,
        "protocol": "p1",
        "protocol_parts": {
            "task": "gsm8k",
            "version": task.version,
            "graders": [f"{scorer.name}@{scorer.version}" for scorer in task.scorers],
        },
        "primary_metric": task.scorers[0].metric,
        "sampling": to_json(task.sampling),
        "n_samples": len(OUTPUTS),
        "started_at": "2026-01-01T00:00:00.000Z",
        "finished_at": "2026-01-01T00:01:00.000Z",
    }
    return runs.write_manifest(home, Run(run_id=RUN, kind="eval", **{**fields, **changes}))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A finished run of four questions."""
    task = gsm8k()
    score.score(write_folder(tmp_path, task, OUTPUTS), task)
    write_run(tmp_path, task)
    return tmp_path


def measures(home: Path) -> dict[str, float]:
    found = json.loads((runs.folder_of(home, RUN) / runs.MEASURES).read_text())
    return {m["metric"]: m["value"] for m in found if not m.get("group")}


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    return store.query(home, sql)[1]


def use(monkeypatch: pytest.MonkeyPatch, *scorers_: Scorer, version: int = 4) -> None:
    """The registry's gsm8k has other graders from now on."""
    found = replace(registry.task("gsm8k"), scorers=scorers_, version=version)
    monkeypatch.setattr("harness.rescore.find_task", lambda name: found)


def add(monkeypatch: pytest.MonkeyPatch, scorer: Scorer) -> None:
    monkeypatch.setitem(scorers.GRADERS, scorer.name, scorer)


def test_a_grader_comes_beside_what_there_is(home: Path) -> None:
    before = measures(home)
    rescore(home, RUN, "hendrycks")
    after = measures(home)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"hendrycks@1"}
    counted = "SELECT grader, version, metric, count(*) FROM grades GROUP BY ALL ORDER BY ALL"
    assert rows(home, counted) == [
        ("gsm8k_flexible", 1, "flexible_extract", 4),
        ("hendrycks", 1, "hendrycks@1", 4),
    ]
    assert rows(home, "SELECT value FROM measures WHERE metric = 'hendrycks@1'") != []


def test_grading_twice_changes_nothing(home: Path) -> None:
    rescore(home, RUN, "hendrycks")
    once = rows(home, "SELECT * FROM grades"), measures(home)
    rescore(home, RUN, "hendrycks")
    assert (rows(home, "SELECT * FROM grades"), measures(home)) == once


def test_a_grader_of_the_run_itself_is_not_added(home: Path) -> None:
    before = measures(home)
    rescore(home, RUN, "gsm8k_flexible")
    assert measures(home) == before


def test_versions_of_a_grader_live_side_by_side(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, Generous())
    rescore(home, RUN, "generous")
    add(monkeypatch, Generous(version=2, value=0.0))
    rescore(home, RUN, "generous")
    found = measures(home)
    assert (found["generous@1"], found["generous@2"]) == (1.0, 0.0)
    sql = "SELECT version, avg(score) FROM grades WHERE grader = 'generous' GROUP BY ALL ORDER BY 1"
    assert rows(home, sql) == [(1, 1.0), (2, 0.0)]


def test_measures_of_tags_are_added_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, Generous())
    rescore(home, RUN, "generous")
    sql = "SELECT group_name, n FROM measures WHERE metric = 'generous@1' ORDER BY 1"
    assert rows(home, sql) == [("", 4), ("easy", 4)]


def test_unchanged_graders_write_the_same_again(home: Path) -> None:
    rescore(home, RUN, "hendrycks")
    before = measures(home), rows(home, "SELECT * FROM grades"), rows(home, "SELECT * FROM samples")
    (runs.folder_of(home, RUN) / runs.SAMPLES).unlink()
    again = rescore(home, RUN)
    after = measures(home), rows(home, "SELECT * FROM grades"), rows(home, "SELECT * FROM samples")
    assert (after[0], sorted(after[1]), after[2]) == (before[0], sorted(before[1]), before[2])
    assert again.status == "done"


def test_damaged_measures_are_written_anew(home: Path) -> None:
    before = measures(home)
    path = runs.folder_of(home, RUN) / runs.MEASURES
    path.write_text("[{")
    with pytest.raises(StoreError) as caught:
        rescore(home, RUN, "hendrycks")
    assert "`bench score" in caught.value.hint
    rescore(home, RUN)
    assert measures(home) == before


def test_changed_graders_of_the_task_come_beside(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Generous())
    before = measures(home)
    run = rescore(home, RUN)
    assert run.protocol == "p1"
    assert measures(home) == {**before, "generous@1": 1.0}
    assert rows(home, "SELECT DISTINCT grader FROM samples") == [("gsm8k_strict@1",)]


def test_replacing_makes_another_protocol_and_keeps_the_old_grades(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescore(home, RUN, "hendrycks")
    before = measures(home)
    use(monkeypatch, Generous(version=3))
    run = rescore(home, RUN, replacing=True)
    assert (run.task_version, run.primary_metric) == (4, "exact_match")
    assert run.protocol not in ("", "p1")
    assert run.protocol_parts["graders"] == ["generous@3"]
    assert rows(home, "SELECT DISTINCT grader, score FROM samples") == [("generous@3", 1.0)]
    found = measures(home)
    assert found["exact_match"] == 1.0
    assert found["gsm8k_strict@1"] == before["strict_match"]
    assert found["gsm8k_flexible@1"] == before["flexible_extract"]
    assert found["hendrycks@1"] == before["hendrycks@1"]
    sql = "SELECT grader, version, metric, count(*) FROM grades GROUP BY ALL ORDER BY 1"
    assert rows(home, sql) == [
        ("gsm8k_flexible", 1, "gsm8k_flexible@1", 4),
        ("gsm8k_strict", 1, "gsm8k_strict@1", 4),
        ("hendrycks", 1, "hendrycks@1", 4),
    ]
    assert not list(runs.folder_of(home, RUN).glob(".*.parquet"))


def test_what_a_killed_attempt_had_set_aside_is_not_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescore(home, RUN, "hendrycks")
    use(monkeypatch, Generous(version=3))

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harness.grades.restore", killed)
        with pytest.raises(KeyboardInterrupt):
            rescore(home, RUN, replacing=True)
    rescore(home, RUN, replacing=True)
    sql = "SELECT grader, count(*) FROM grades GROUP BY ALL ORDER BY 1"
    assert rows(home, sql) == [("gsm8k_flexible", 4), ("gsm8k_strict", 4), ("hendrycks", 4)]


def test_a_grader_that_raises_names_itself_and_the_sample(tmp_path: Path) -> None:
    task = gsm8k(scorers=(Broken(),))
    folder = write_folder(tmp_path, task, OUTPUTS)
    with pytest.raises(GraderError) as caught:
        score.score(folder, task)
    message = "grader `broken` raised ZeroDivisionError on answer 0 to `q2`: by nothing"
    assert str(caught.value) == message
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not (folder / runs.SAMPLES).exists()
    assert not list(folder.glob(".*jsonl"))


def test_a_broken_grader_does_not_stop_the_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(write_checkpoint(tmp_path / "model"))
    broken = replace(registry.task("gsm8k"), scorers=(Broken(at=""),))
    both = (broken, registry.task("arithmetic"))
    monkeypatch.setattr("harness.evaluate.find_tasks", lambda names: both)
    with pytest.raises(GraderError, match="grader `broken` raised"):
        evaluate(model, "both", engine="mock", offline_sample=True, limit=2, home=tmp_path)
    found = rows(tmp_path, "SELECT task, status, cause, error FROM runs ORDER BY task")
    assert found[0] == ("arithmetic", "done", None, None)
    assert found[1][:3] == ("gsm8k", "failed", "scoring_error")
    assert "grader `broken` raised ZeroDivisionError on answer 0 to `" in found[1][3]
    run_id = rows(tmp_path, "SELECT run_id FROM failures")[0][0]
    assert rescore(tmp_path, run_id).status == "done"


def test_a_run_whose_grader_raised_is_finished_by_a_repaired_one(tmp_path: Path) -> None:
    task = gsm8k()
    write_folder(tmp_path, task, OUTPUTS)
    write_run(tmp_path, task, status="failed", cause="scoring_error", error="grader `x` raised")
    run = rescore(tmp_path, RUN)
    assert (run.status, run.cause, run.error, run.n_samples) == ("done", None, None, 4)
    assert measures(tmp_path)["strict_match"] == 0.5
    assert rows(tmp_path, "SELECT status, value FROM history") == [("done", 0.5)]


def test_a_broken_grader_leaves_the_run_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measures(home), rows(home, "SELECT * FROM grades")
    add(monkeypatch, Broken())
    with pytest.raises(GraderError):
        rescore(home, RUN, "broken")
    assert (measures(home), rows(home, "SELECT * FROM grades")) == before


def test_a_missing_answer_is_never_a_zero(tmp_path: Path) -> None:
    task = gsm8k()
    folder = write_folder(tmp_path, task, OUTPUTS)
    lines = (folder / runs.COMPLETIONS).read_bytes().splitlines(keepends=True)
    (folder / runs.COMPLETIONS).write_bytes(b"".join(lines[:-1]) + lines[-1][:-1])
    write_run(tmp_path, task, status="interrupted", cause="killed")
    with pytest.raises(StoreError, match="`q0` has no answer"):
        rescore(tmp_path, RUN)
    with pytest.raises(UsageError, match="is interrupted") as caught:
        rescore(tmp_path, RUN, "hendrycks")
    assert "bench runs resume" in caught.value.hint


def test_a_damaged_answer_is_named(home: Path) -> None:
    path = runs.folder_of(home, RUN) / runs.COMPLETIONS
    path.write_bytes(path.read_bytes().replace(b'"#### 4"', b'"#### 4', 1))
    with pytest.raises(StoreError, match=r"at byte \d+ that is not JSON"):
        rescore(home, RUN, "hendrycks")


def test_a_running_run_is_refused(home: Path) -> None:
    held = runs.lock(runs.folder_of(home, RUN))
    assert held is not None
    with pytest.raises(UsageError, match="is running"):
        rescore(home, RUN, "hendrycks")


@pytest.mark.parametrize(
    ("changes", "grader", "message"),
    [
        ({}, "hendrix", "unknown grader `hendrix`"),
        ({"sampling": {}}, "hendrycks", "it has no text for `hendrycks`"),
        ({"kind": "train"}, None, "is of kind train"),
    ],
)
def test_what_cannot_be_graded_is_refused(
    home: Path, changes: JSON, grader: str | None, message: str
) -> None:
    run = runs.read_manifest(runs.folder_of(home, RUN))
    runs.write_manifest(home, replace(run, **changes))
    with pytest.raises(UsageError, match=message) as caught:
        rescore(home, RUN, grader)
    assert caught.value.hint


def test_a_judge_is_not_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = replace(registry.task("gsm8k"), scorers=(Generous(),), judge="safety")
    monkeypatch.setattr("harness.rescore.find_task", lambda name: judged)
    with pytest.raises(UsageError, match="reads a judge's replies"):
        rescore(home, RUN)


def test_several_answers_are_graded_and_measured(tmp_path: Path) -> None:
    task = gsm8k(n=2)
    score.score(write_folder(tmp_path, task, OUTPUTS), task)
    write_run(tmp_path, task)
    rescore(tmp_path, RUN, "hendrycks")
    found = measures(tmp_path)
    assert (found["strict_match"], found["avg@2"], found["pass@1"]) == (0.625, 0.625, 0.625)
    assert (found["pass@2"], found["maj@1"], found["maj@2"]) == (1.0, 0.5, 1.0)
    assert {"flexible_extract:pass@2", "hendrycks@1:maj@2", "question_stderr"} <= set(found)
    assert rows(tmp_path, "SELECT count(*) FROM grades WHERE grader = 'hendrycks'") == [(8,)]


def test_disagreements_name_the_answers_and_what_they_cost(home: Path) -> None:
    (one,) = disagreements(home, RUN)
    assert (one.a, one.b, one.n) == ("gsm8k_strict@1", "gsm8k_flexible@1", 4)
    assert (one.value_a, one.value_b, one.delta, one.p) == (0.5, 0.5, 0.0, 1.0)
    found = [(d.sample_id, d.answer_a, d.answer_b, d.score_a, d.score_b) for d in one.found]
    assert found == [("q1", None, "4", 0.0, 1.0), ("q3", "4", "9", 1.0, 0.0)]
    assert -1 <= one.ci_low < 0 < one.ci_high <= 1


def test_disagreements_between_named_graders_take_the_latest_version(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        add(monkeypatch, Generous(version=version))
        rescore(home, RUN, "generous")
    (one,) = disagreements(home, RUN, ("generous", "gsm8k_strict"))
    assert (one.a, one.delta, len(one.found)) == ("generous@2", -0.5, 2)
    assert disagreements(home, RUN, ("generous@1", "generous@2"))[0].found == ()
    assert len(disagreements(home, RUN)) == 3


def test_disagreements_of_several_answers_pair_questions(tmp_path: Path) -> None:
    task = gsm8k(n=2)
    score.score(write_folder(tmp_path, task, OUTPUTS), task)
    write_run(tmp_path, task)
    (one,) = disagreements(tmp_path, RUN)
    assert (one.n, one.value_a, one.value_b) == (4, 0.625, 0.625)
    assert [(d.sample_id, d.sample_index) for d in one.found] == [("q1", 0), ("q3", 0)]


def test_disagreements_need_two_graders(home: Path) -> None:
    (runs.folder_of(home, RUN) / "grades.parquet").unlink()
    store.ingest(home, RUN)
    with pytest.raises(UsageError, match="by gsm8k_strict@1 alone") as caught:
        disagreements(home, RUN)
    assert "--grader" in caught.value.hint
    with pytest.raises(UsageError, match="no grades by `hendrycks`") as caught:
        disagreements(home, RUN, ("hendrycks", "gsm8k_strict"))
    assert "--grader hendrycks" in caught.value.hint


app = typer.Typer()
app.command("score")(score_command)
app.callback()(lambda: None)


def bench(home: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, ["score", *arguments, "--home", str(home)])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_the_command_adds_a_grader_and_prints_all_measures(home: Path) -> None:
    assert "hendrycks@1" in bench(home, "abcdef", "--grader", "hendrycks").stdout
    (run,) = json.loads(bench(home, RUN, "--json").stdout)["runs"]
    assert (run["run_id"], run["status"]) == (RUN, "done")
    assert {m["metric"] for m in run["measures"]} >= {"strict_match", "hendrycks@1"}


def test_all_leaves_out_what_the_grader_cannot_grade(home: Path) -> None:
    run = runs.read_manifest(runs.folder_of(home, RUN))
    runs.write_manifest(home, replace(run, sampling={}))
    result = bench(home, "--all", "--grader", "hendrycks", "--json")
    assert json.loads(result.stdout) == {"runs": []}
    assert "left out" in result.stderr


def test_the_command_lists_disagreements(home: Path) -> None:
    result = bench(home, RUN, "--disagreements")
    assert "2 answers graded differently" in result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines()[2:]] == ["q1", "q3"]
    (one,) = json.loads(bench(home, RUN, "--disagreements", "--json").stdout)
    assert one["found"][0]["answer_b"] == "4"
    between = ["--between", "gsm8k_flexible", "gsm8k_strict", "--format", "csv"]
    assert "q1" in bench(home, RUN, "--disagreements", *between).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [RUN, "--all"],
        [RUN, "--between", "a", "b"],
        [RUN, "--disagreements", "--grader", "hendrycks"],
        [RUN, "--replace", "--grader", "hendrycks"],
        [RUN, "--format", "pdf"],
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    home: Path, arguments: Sequence[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        bench(home, *arguments)
    assert caught.value.hint


SCORE_AND_PEAK = """
import sys
from pathlib import Path
from harness.registry import task
from harness.score import score
score(Path(sys.argv[1]), task("gsm8k"))
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.slow
def test_200_mb_of_answers_are_scored_in_less_than_300_mb(tmp_path: Path) -> None:
    task = gsm8k(n=16)
    text = "from this the next step of the solution follows, as was shown " * 90 + "#### 4"
    outputs = {f"q{i}": [text] * 16 for i in range(2_200)}
    folder = write_folder(tmp_path, task, outputs)
    assert (folder / runs.COMPLETIONS).stat().st_size > 180e6
    command = [sys.executable, "-c", SCORE_AND_PEAK, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300
