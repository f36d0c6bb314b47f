"""Answers graded while others are still being given."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from harness.ahead import Ahead
from harness.evaluate import evaluate
from harness.registry import task as find_task
from harness.runs import COMPLETIONS, REQUESTS, SAMPLES
from harness.score import score
from harness.scorers import NUMBER
from harness.types import Completion, Sample, Score, to_json

TASK = find_task("gsm8k")


def asked(folder: Path, *ids: str) -> None:
    sampling = to_json(TASK.sampling)
    sample = {"target": "#### 4", "choices": [], "group": ""}
    lines = (
        {"id": i, "kind": "generate", "prompt": "?", "sampling": sampling, "sample": sample}
        for i in ids
    )
    (folder / REQUESTS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def answered(request_id: str, text: str) -> Completion:
    return Completion(request_id=request_id, text=text, finish_reason="stop", prompt_tokens=1)


def append(folder: Path, *completions: Completion, end: str = "\n") -> None:
    with (folder / COMPLETIONS).open("a") as file:
        file.write("".join(json.dumps(to_json(one)) + end for one in completions))


def test_grades_are_there_when_the_run_is_scored(tmp_path: Path) -> None:
    right, wrong = answered("a", "#### 4"), answered("b", "#### 5")
    asked(tmp_path, "a", "b")
    ahead = Ahead({tmp_path: TASK})
    append(tmp_path, right)
    ahead.look()
    append(tmp_path, wrong)
    ready = ahead.take(tmp_path)
    ahead.stop()
    found = [ready.find(one) for one in (right, wrong)]
    assert [[grade.value for grade in grades or ()] for grades in found] == [[1, 1], [0, 0]]
    assert ready.find(answered("b", "#### 4")) is None  # another answer to the same question


def test_a_run_scores_the_same_with_and_without(tmp_path: Path) -> None:
    asked(tmp_path, "a", "b")
    append(tmp_path, answered("a", "#### 4"), answered("b", "so 4 or 5"))
    without = score(tmp_path, TASK)
    before = (tmp_path / SAMPLES).read_bytes()
    ahead = Ahead({tmp_path: TASK})
    assert score(tmp_path, TASK, ahead.take(tmp_path).find) == without
    ahead.stop()
    assert (tmp_path / SAMPLES).read_bytes() == before


def test_a_torn_line_is_left_until_it_is_whole(tmp_path: Path) -> None:
    asked(tmp_path, "a")
    append(tmp_path, answered("a", "#### 4"), end="")
    ahead = Ahead({tmp_path: TASK})
    ahead.look()
    append(tmp_path, end="\n")
    with (tmp_path / COMPLETIONS).open("a") as file:
        file.write("\n")
    ready = ahead.take(tmp_path)
    ahead.stop()
    assert len(ready) == 1


class Broken:
    name, version, metric = "broken", 1, "broken"

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        raise ZeroDivisionError


@dataclass
class Started:
    """A grader that has something to start."""

    times: int = 0
    name: str = "started"
    version: int = 1
    metric: str = "right"

    def prepare(self) -> None:
        self.times += 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        return NUMBER(sample, completion)


def test_graders_are_started_before_there_are_answers(tmp_path: Path) -> None:
    asked(tmp_path, "a")
    started = Started()
    Ahead({tmp_path: replace(TASK, scorers=(started, NUMBER))}).stop()
    assert started.times == 1


def test_what_cannot_be_graded_is_left_to_scoring(tmp_path: Path) -> None:
    asked(tmp_path, "a")
    append(tmp_path, answered("a", "#### 4"))
    ahead = Ahead({tmp_path: replace(TASK, scorers=(Broken(), NUMBER))})
    ready = ahead.take(tmp_path)
    ahead.stop()
    assert len(ready) == 0


def test_judged_and_chosen_answers_are_not_for_it(tmp_path: Path) -> None:
    for name in ("mmlu", "alpaca_eval"):
        ahead = Ahead({tmp_path: find_task(name)})
        assert len(ahead.take(tmp_path)) == 0
        ahead.stop()


COUNTING = """
from dataclasses import replace
from pathlib import Path
from harness.registry import task
from harness.scorers import NUMBER

class Counting:
    name, version, metric = "counting", 1, "right"
    def __call__(self, sample, completion):
        with Path(__file__).with_name("graded.txt").open("a") as file:
            file.write(sample.id + "\\n")
        return NUMBER(sample, completion)

TASKS = (replace(task("arithmetic"), name="counted", scorers=(Counting(),)),)
"""


def test_an_evaluation_grades_every_answer_once(tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTING)
    tasks = str(tmp_path / "counted.py")
    (run,) = evaluate("Tiny", tasks, engine="mock", limit=20, home=tmp_path)
    assert run.status == "done"
    graded = (tmp_path / "graded.txt").read_text().split()
    assert (len(graded), len(set(graded))) == (20, 20)
