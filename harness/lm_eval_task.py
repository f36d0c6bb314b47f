"""Names `lm_eval/<name>`: tasks that lm-evaluation-harness renders and grades (`harness.bridge`).

Such a task is known by its name alone until lm-eval, in a process of its own, has said what it
asks. The registry hands out the name; a plan has the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UsageError
from harness.task import Row, Task
from harness.types import Completion, Dataset, Sample, SamplingParams, Score

PREFIX = "lm_eval/"
GRADER = "lm_eval"
VERSION = 1  # of the bridge; lm-eval's own and its tasks' versions are parts of the protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class LmEvalMetric:
    """The name of lm-eval's primary metric, in the place of a scorer."""

    metric: str
    name: str = GRADER
    version: int = VERSION

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        raise UsageError(
            f"`{sample.id}` is graded by lm-eval, which grades a run as a whole",
            "leave out what asks for a single grade",
        )


def lm_eval_task(name: str) -> Task:
    """The task called `name` (`lm_eval/arc_easy`), as far as it is known without lm-eval."""
    inner = name.removeprefix(PREFIX)
    if not inner:
        raise UsageError(f"`{name}` names no task of lm-eval", "for example `lm_eval/arc_easy`")
    return Task(
        name=name,
        version=VERSION,
        title=f"`{inner}` of lm-evaluation-harness",
        source="lm-evaluation-harness",
        dataset=Dataset(path=inner),
        columns=(),
        to_sample=_no_row,
        kind="generate",
        scorers=(LmEvalMetric(metric=""),),
        offline="",
        sampling=SamplingParams(),
    )


def is_lm_eval(task: Task) -> bool:
    return task.name.startswith(PREFIX)


def _no_row(row: Row, index: int) -> Sample:
    raise UsageError(
        "the questions of an lm-eval task are rendered by lm-eval",
        "`bench eval --tasks lm_eval/… --dry-run` shows the first one",
    )
