from __future__ import annotations

from dataclasses import replace

import golden_prompts
import pytest

from harness import registry
from harness.task import Row, Task
from harness.types import Sample

ALL = registry.all_tasks()


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.id)
def test_variant_asks_what_it_asked(task: Task) -> None:
    kept = golden_prompts.read(task)
    assert kept is not None, f"`{task.id}` is new: run `{golden_prompts.UPDATE}`"
    problem = golden_prompts.difference(task, kept)
    assert problem is None, problem


def test_every_golden_file_belongs_to_a_variant() -> None:
    files = {path.name for path in golden_prompts.FOLDER.iterdir()}
    assert files == {golden_prompts.path_of(task).name for task in ALL}


def test_golden_file_holds_three_questions_and_one_in_chat_form() -> None:
    kept = golden_prompts.rendered(registry.task("gsm8k:cot"))
    assert [isinstance(request["prompt"], str) for request in kept["requests"]] == [True] * 3
    assert len({request["id"] for request in kept["requests"]}) == 3
    assert kept["chat"]["prompt"][-1]["role"] == "user"


def test_changed_prompt_tells_to_raise_the_version() -> None:
    task = registry.task("gsm8k")

    def shout(row: Row, index: int) -> Sample:
        sample = task.to_sample(row, index)
        return replace(sample, input=f"{sample.input}!")

    changed = replace(task, to_sample=shout)
    problem = golden_prompts.difference(changed, golden_prompts.rendered(task))
    assert problem is not None
    assert "`gsm8k` is still version 1, but its requests, chat changed" in problem
    assert "Raise `version` of the task, then run `python -m tests.golden_prompts`" in problem
    raised = replace(changed, version=2)
    assert golden_prompts.difference(raised, golden_prompts.rendered(task)) == (
        "`gsm8k` has a new version: run `python -m tests.golden_prompts`"
    )


def test_other_grader_or_sampling_changes_the_protocol_too() -> None:
    task = registry.task("gsm8k")
    kept = golden_prompts.rendered(task)
    other_grader = replace(task, scorers=task.scorers[:1])
    longer = replace(task, sampling=replace(task.sampling, max_tokens=1_024))
    assert "its graders changed" in str(golden_prompts.difference(other_grader, kept))
    assert "its requests, chat changed" in str(golden_prompts.difference(longer, kept))
