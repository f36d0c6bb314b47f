"""Grading of lm-eval runs, for the process of the command line: lm-eval grades, we keep it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from harness.bridge.job import ask, require_lm_eval
from harness.lm_eval_task import GRADER, VERSION
from harness.metrics import rates
from harness.runs import WORKER_LOG
from harness.score import Graded, Tally, answers, prompt_text, write_measures
from harness.store import write_samples
from harness.task import Task
from harness.types import JSON, Completion, Measure, Score, Scored


def score_lm_eval(folder: Path, task: Task) -> Graded:
    """Let lm-eval grade a run folder; writes samples, grades and measures.

    Raises StoreError where an answer is missing or lm-eval would ask something else by now, and
    WorkerError where lm-eval fails.
    """
    require_lm_eval()
    events = ask(
        "harness.bridge.score",
        [str(folder)],
        log=folder / WORKER_LOG,
        what=f"grade `{task.name}`",
    )
    grading = _Grading(folder)
    write_samples(folder, grading.rows(events))
    measures = (*grading.measures, *rates(grading.generated))
    write_measures(folder, measures)
    return replace(grading.tally.graded(measures), n_samples=grading.n_samples)


class _Grading:
    """Joins lm-eval's grades with the answers that they are of."""

    def __init__(self, folder: Path) -> None:
        self.tally = Tally()
        self.n_samples = 0
        self.measures: list[Measure] = []
        self.generated: list[Scored] = []
        self._asked: dict[str, tuple[JSON, list[Completion]]] = {}
        for request, sample, completion in answers(folder):
            self.tally.add(completion)
            self._asked.setdefault(sample.id, (request, []))[1].append(completion)

    def rows(self, events: Iterable[JSON]) -> Iterator[JSON]:
        for event in events:
            if event.pop("event") == "measure":
                self.measures.append(Measure(**event))
            else:
                self.n_samples += 1
                yield from self._rows(event)

    def _rows(self, graded: JSON) -> Iterator[JSON]:
        """One for each completion of the question's first request; the grades are the question's,
        since lm-eval's filters read all completions together."""
        asked = [self._asked[request_id] for request_id in graded["requests"]]
        request, completions = asked[0]
        logprobs = [value for _, own in asked for value in own[0].choice_logprobs]
        for completion in completions:
            if request["kind"] == "generate":
                self.generated.append(_scored(graded, completion))
            yield _row(graded, prompt_text(request), completion, logprobs)


def _row(graded: JSON, prompt: str, completion: Completion, logprobs: list[float]) -> JSON:
    primary = graded["primary"]
    return {
        "sample_id": graded["sample_id"],
        "sample_index": completion.index,
        "group_name": graded["group_name"],
        "prompt": completion.prompt or prompt,
        "output": completion.text,
        "target": graded["target"],
        "answer": primary["answer"],
        "score": primary["score"],
        "parsed": primary["answer"] is not None,
        "truncated": completion.finish_reason == "length",
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "choice_logprobs": logprobs,
        "grader": f"{GRADER}@{VERSION}",
        "explanation": "",
        "grades": [_grade(grade) for grade in graded["grades"]],
    }


def _grade(grade: JSON) -> JSON:
    parsed = grade["answer"] is not None
    return {**grade, "grader": GRADER, "version": VERSION, "parsed": parsed, "explanation": ""}


def _scored(graded: JSON, completion: Completion) -> Scored:
    primary = graded["primary"]
    score = Score(
        value=primary["score"] or 0.0, answer=primary["answer"], grader=GRADER, version=VERSION
    )
    return Scored(
        sample_id=graded["sample_id"],
        index=completion.index,
        group=graded["group_name"],
        score=score,
        truncated=completion.finish_reason == "length",
    )
