"""Does a task give its own reference answers full marks, on all of its questions?"""

from __future__ import annotations

from dataclasses import dataclass

from harness.questions import Questions
from harness.scorers import last_boxed
from harness.task import Scorer, Task
from harness.types import Completion, Sample

# Ways in which a model may state its answer; a grader is sound if it understands one of them.
STATEMENTS = (
    " {}",
    "The answer is {}.",
    "The answer is ${}$.",
    "The answer is \\boxed{{{}}}.",
    "Final Answer: The final answer is ${}$. I hope it is correct.",
    "So it is. </think> <answer> {} </answer>",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldCheck:
    """wrong: ids of the questions of which a scorer did not accept the reference answer. refused:
    those of which that is known, with the reason; they do not count as wrong."""

    task: str
    n: int
    source: str
    wrong: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def value(self) -> float:
        return 1 - len(self.wrong) / self.n


def check_gold(questions: Questions) -> GoldCheck:
    """Every reference answer, graded by every scorer of the task."""
    task = questions.task
    found = [
        sample.id
        for sample in questions.samples
        if task.has_gold and not all(_accepts(scorer, task, sample) for scorer in task.scorers)
    ]
    known = dict(task.refused)
    return GoldCheck(
        task=task.id,
        n=len(questions.samples),
        source=questions.source,
        wrong=tuple(one for one in found if one not in known),
        refused=tuple((one, known[one]) for one in found if one in known),
    )


def _accepts(scorer: Scorer, task: Task, sample: Sample) -> bool:
    if task.kind == "choose":
        likeliest = tuple(0.0 if choice == sample.target else -1.0 for choice in sample.choices)
        told = _completion(sample, choice_logprobs=likeliest, top_tokens=((sample.target, 0.0),))
        return scorer(sample, told).value == 1
    # The reference may be a whole solution, with the answer in a box.
    answer = " ".join((last_boxed(sample.target) or sample.target).split())
    stated = (*(statement.format(answer) for statement in STATEMENTS), sample.target)
    return any(scorer(sample, _completion(sample, text=text)).value == 1 for text in stated)


def _completion(
    sample: Sample,
    *,
    text: str = "",
    choice_logprobs: tuple[float, ...] = (),
    top_tokens: tuple[tuple[str, float], ...] = (),
) -> Completion:
    return Completion(
        request_id=sample.id,
        text=text,
        finish_reason="stop" if text else "scored",
        prompt_tokens=0,
        choice_logprobs=choice_logprobs,
        top_tokens=top_tokens,
    )
