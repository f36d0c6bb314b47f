"""The third step: saved completions become grades and measures. Needs no model and no dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError
from harness.metrics import rates, summarise
from harness.runs import MEASURES, read_completions, read_requests, write_atomically
from harness.store import write_samples
from harness.task import Scorer, Task
from harness.types import (
    JSON,
    Completion,
    Measure,
    Message,
    Sample,
    Score,
    Scored,
    prompt_from_json,
    sampling_from_json,
    to_json,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """The result of scoring one run: its measures and sums over its completions."""

    measures: tuple[Measure, ...]
    n_samples: int
    prompt_tokens: int
    completion_tokens: int
    outputs_sha256: str


def score(folder: Path, task: Task) -> Graded:
    """Grade every completion of a run folder; writes samples, grades and measures.

    Raises StoreError where a request has no completion: what is missing is never a zero.
    """
    grading = _Grading(task)
    write_samples(folder, grading.rows(folder))
    measures = grading.measures()
    text = json.dumps([to_json(measure) for measure in measures], indent=2, ensure_ascii=False)
    write_atomically(folder / MEASURES, text + "\n")
    return Graded(
        measures=measures,
        n_samples=grading.n_samples,
        prompt_tokens=grading.prompt_tokens,
        completion_tokens=grading.completion_tokens,
        outputs_sha256=grading.outputs.hexdigest(),
    )


class _Grading:
    """Sums kept while the rows stream by; the rows themselves are never held."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scored: dict[str, list[Scored]] = {scorer.metric: [] for scorer in task.scorers}
        self.outputs = hashlib.sha256()
        self.n_samples = self.prompt_tokens = self.completion_tokens = 0

    def rows(self, folder: Path) -> Iterator[JSON]:
        completions = {(c.request_id, c.index): c for c in read_completions(folder)}
        for request in read_requests(folder):
            sampling = request.get("sampling")
            self.n_samples += 1
            for index in range(sampling_from_json(sampling).n if sampling else 1):
                completion = completions.get((request["id"], index))
                if completion is None:
                    raise StoreError(
                        f"`{request['id']}` has no answer in {folder}", "repeat the eval command"
                    )
                yield self._row(request, completion)

    def _row(self, request: JSON, completion: Completion) -> JSON:
        sample = _sample(request)
        grades = [self._grade(scorer, sample, completion) for scorer in self.task.scorers]
        self._count(completion)
        first = grades[0]
        return {
            "sample_id": sample.id,
            "sample_index": completion.index,
            "group_name": sample.group,
            "prompt": completion.prompt or _text(request),
            "output": completion.text,
            "target": sample.target,
            "answer": first.answer,
            "score": first.value,
            "parsed": first.parsed,
            "truncated": completion.finish_reason == "length",
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "choice_logprobs": list(completion.choice_logprobs),
            "grader": f"{first.grader}@{first.version}",
            "explanation": first.explanation,
            "grades": [
                _grade_row(sample, completion, scorer, grade)
                for scorer, grade in zip(self.task.scorers[1:], grades[1:], strict=True)
            ],
        }

    def _grade(self, scorer: Scorer, sample: Sample, completion: Completion) -> Score:
        grade = scorer(sample, completion)
        self.scored[scorer.metric].append(
            Scored(
                sample_id=sample.id,
                index=completion.index,
                group=sample.group,
                score=grade,
                truncated=completion.finish_reason == "length",
            )
        )
        return grade

    def _count(self, completion: Completion) -> None:
        self.prompt_tokens += completion.prompt_tokens if completion.index == 0 else 0
        self.completion_tokens += completion.completion_tokens
        seen = [completion.request_id, completion.index, completion.text]
        # Log-probabilities differ in their last digits from machine to machine; choices do not.
        best = max(completion.choice_logprobs, default=None)
        chosen = completion.choice_logprobs.index(best) if best is not None else None
        self.outputs.update(json.dumps([*seen, chosen]).encode())

    def measures(self) -> tuple[Measure, ...]:
        found: list[Measure] = []
        for metric, scored in self.scored.items():
            found += summarise(metric, scored)
        if self.task.kind == "generate":
            found += rates(self.scored[self.task.scorers[0].metric])
        return tuple(found)


def _grade_row(sample: Sample, completion: Completion, scorer: Scorer, grade: Score) -> JSON:
    return {
        "sample_id": sample.id,
        "sample_index": completion.index,
        "grader": grade.grader,
        "version": grade.version,
        "metric": scorer.metric,
        "score": grade.value,
        "answer": grade.answer,
        "parsed": grade.parsed,
        "explanation": grade.explanation,
    }


def _sample(request: JSON) -> Sample:
    graded = request["sample"]
    return Sample(
        id=request["id"],
        input=prompt_from_json(request["prompt"]),
        target=graded["target"],
        choices=tuple(graded["choices"]),
        group=graded["group"],
    )


def _text(request: JSON) -> str:
    prompt = prompt_from_json(request["prompt"])
    return prompt if isinstance(prompt, str) else "\n".join(map(_turn, prompt))


def _turn(message: Message) -> str:
    return f"{message.role}: {message.content}"
