"""The third step: saved completions become grades and measures. Needs no model and no dataset."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.completions import Completions
from harness.errors import BenchError, StoreError
from harness.judgements import Judgements
from harness.metrics import essence, rates, sampling_measures, summarise
from harness.runs import MEASURES, read_requests, write_atomically
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
    flags: tuple[str, ...] = ()


class Tally:
    """Sums over the completions of a run, in the order of its requests."""

    def __init__(self) -> None:
        self._outputs = hashlib.sha256()
        self._n_samples = self._prompt_tokens = self._completion_tokens = 0

    def add(self, completion: Completion) -> None:
        if completion.index == 0:
            self._n_samples += 1
            self._prompt_tokens += completion.prompt_tokens
        self._completion_tokens += completion.completion_tokens
        seen = [completion.request_id, completion.index, completion.text]
        # Log-probabilities differ in their last digits from machine to machine; choices do not.
        best = max(completion.choice_logprobs, default=None)
        chosen = completion.choice_logprobs.index(best) if best is not None else None
        self._outputs.update(json.dumps([*seen, chosen]).encode())

    def graded(self, measures: tuple[Measure, ...]) -> Graded:
        return Graded(
            measures=measures,
            n_samples=self._n_samples,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            outputs_sha256=self._outputs.hexdigest(),
        )


class GraderError(RuntimeError):
    """A grader raised: a bug of the grader, told with the sample, never a wrong answer."""


Find = Callable[[Completion], tuple[Score, ...] | None]


def score(folder: Path, task: Task, ready: Find = lambda _: None) -> Graded:
    """Grade every completion of a run folder; writes samples, grades and measures.

    ready: grades by the task's scorers that are there already (see `harness.ahead`).
    Raises StoreError where a request has no completion: what is missing is never a zero.
    Raises GraderError where a grader raises.
    """
    grading = _Grading(task, Judgements(folder, task) if task.judge else None, ready)
    write_samples(folder, grading.rows(folder))
    measures = grading.measures()
    write_measures(folder, measures)
    return grading.tally.graded(measures)


def write_measures(folder: Path, measures: tuple[Measure, ...]) -> None:
    text = json.dumps([to_json(measure) for measure in measures], indent=2, ensure_ascii=False)
    write_atomically(folder / MEASURES, text + "\n")


def answers(folder: Path) -> Iterator[tuple[JSON, Sample, Completion]]:
    """Each request of a run folder as planned, its sample, and each of its completions.

    Raises StoreError where one is missing.
    """
    with Completions(folder) as completions:
        for request in read_requests(folder):
            sample = sample_of(request)
            for index in range((request.get("sampling") or {}).get("n", 1)):
                completion = completions.find(sample.id, index)
                if completion is None:
                    raise StoreError(
                        f"`{sample.id}` has no answer in {folder}", "repeat the eval command"
                    )
                yield request, sample, completion


def graded(scorer: Scorer, sample: Sample, completion: Completion) -> Score:
    """The grade; whatever a grader raises names the grader and the sample."""
    try:
        return scorer(sample, completion)
    except BenchError:
        raise
    except Exception as error:
        raise GraderError(
            f"grader `{scorer.name}` raised {type(error).__name__} on answer {completion.index} to"
            f" `{sample.id}`: {error}"
        ) from error


def scored(sample: Sample, completion: Completion, grade: Score) -> Scored:
    """What metrics need to know about a graded completion."""
    return Scored(
        sample_id=sample.id,
        index=completion.index,
        group=sample.group,
        score=essence(grade),
        truncated=completion.finish_reason == "length",
        tags=sample.tags,
    )


class _Grading:
    """Sums kept while the rows stream by; the rows themselves are never held."""

    def __init__(self, task: Task, judgements: Judgements | None, ready: Find) -> None:
        self.task, self.judgements, self.ready = task, judgements, ready
        self.scored: dict[str, list[Scored]] = {scorer.metric: [] for scorer in task.scorers}
        self.tally = Tally()

    def rows(self, folder: Path) -> Iterator[JSON]:
        for request, sample, completion in answers(folder):
            yield self._row(request, sample, completion)

    def _row(self, request: JSON, sample: Sample, completion: Completion) -> JSON:
        grades = self.ready(completion) or tuple(
            self._grade(scorer, sample, completion) for scorer in self.task.scorers
        )
        for scorer, grade in zip(self.task.scorers, grades, strict=True):
            self.scored[scorer.metric].append(scored(sample, completion, grade))
        self.tally.add(completion)
        first = grades[0]
        return {
            "sample_id": sample.id,
            "sample_index": completion.index,
            "group_name": sample.group,
            "prompt": completion.prompt or prompt_text(request),
            "output": completion.text,
            "target": sample.target,
            "answer": first.answer,
            "score": number(first.value),
            "parsed": first.parsed,
            "truncated": completion.finish_reason == "length",
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "choice_logprobs": completion.choice_logprobs,
            "grader": f"{first.grader}@{first.version}",
            "explanation": first.explanation,
            "grades": [
                grade_row(sample, completion, scorer.metric, grade)
                for scorer, grade in zip(self.task.scorers[1:], grades[1:], strict=True)
            ]
            + (list(self.judgements.row(sample, completion, first)) if self.judgements else []),
        }

    def _grade(self, scorer: Scorer, sample: Sample, completion: Completion) -> Score:
        read = self.judgements.reply(sample, completion.index) if self.judgements else completion
        return graded(scorer, sample, read)

    def measures(self) -> tuple[Measure, ...]:
        found: list[Measure] = []
        primary = self.task.scorers[0].metric
        for metric, items in self.scored.items():
            found += summarise(metric, items, clustered=self.task.clustered)
            if self.judgements is None:
                found += sampling_measures("" if metric == primary else f"{metric}:", items)
        if self.judgements is not None:
            found += self.judgements.measures(self.scored[primary])
        elif self.task.kind == "generate" or not all(i.score.parsed for i in self.scored[primary]):
            # The likeliest choice can always be read, except by rules that may find none.
            found += rates(self.scored[primary])
        return tuple(found)


def number(value: float) -> float | None:
    """A score as it is stored: null where the grader gave none."""
    return None if math.isnan(value) else value


def grade_row(sample: Sample, completion: Completion, metric: str, grade: Score) -> JSON:
    """A row of grades.parquet."""
    return {
        "sample_id": sample.id,
        "sample_index": completion.index,
        "grader": grade.grader,
        "version": grade.version,
        "metric": metric,
        "score": number(grade.value),
        "answer": grade.answer,
        "parsed": grade.parsed,
        "explanation": grade.explanation,
    }


def sample_of(request: JSON) -> Sample:
    """The sample that a line of requests.jsonl was made from."""
    asked = request["sample"]
    return Sample(
        id=request["id"],
        input=prompt_from_json(request["prompt"]),
        target=asked["target"],
        choices=tuple(asked["choices"]),
        group=asked["group"],
        tags=tuple(asked.get("tags", ())),
    )


def prompt_text(request: JSON) -> str:
    prompt = request["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(_turn(Message(**message)) for message in prompt)


def _turn(message: Message) -> str:
    return f"{message.role}: {message.content}"
