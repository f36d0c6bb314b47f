"""The first step: a task's questions become a file of requests and a protocol fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import UsageError
from harness.halves import Half
from harness.judgements import Appointed
from harness.questions import Questions
from harness.runs import writing
from harness.task import Task
from harness.types import JSON, Request, Sample, SamplingParams, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is going to be asked, whoever is asked.

    path: the requests, one JSON object a line. protocol: hash of `parts`; equal protocols may share
    a column of a table. source: where the questions came from. sidecars: files that grading needs
    beside the requests, by the names that they get in the run folder.
    """

    task: Task
    path: Path
    n_samples: int
    limit_n: int | None
    offline: bool
    half: Half | None = None
    dataset_revision: str
    source: str
    protocol: str
    parts: JSON
    sidecars: Mapping[str, Path] = field(default_factory=dict)
    judge: Appointed | None = None


def adjusted(
    task: Task,
    *,
    samples: int | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> Task:
    """The task with what the command line asks for instead of the published sampling.

    Raises UsageError for what cannot be: fewer than one sample or token, several greedy samples.
    """
    given = (samples, temperature, max_tokens, seed)
    if task.kind != "generate" or given == (None, None, None, None):
        return task
    was = task.sampling
    sampling = replace(
        was,
        n=was.n if samples is None else samples,
        temperature=was.temperature if temperature is None else temperature,
        max_tokens=was.max_tokens if max_tokens is None else max_tokens,
        seed=was.seed if seed is None else seed,
    )
    _check(task, sampling)
    return replace(task, sampling=sampling)


def _check(task: Task, sampling: SamplingParams) -> None:
    if sampling.n < 1:
        raise UsageError(f"`--samples {sampling.n}` asks for nothing", "use 1 or more")
    if sampling.max_tokens < 1:
        raise UsageError(f"`--max-tokens {sampling.max_tokens}` is no answer", "use 1 or more")
    if sampling.temperature < 0:
        raise UsageError(f"`--temperature {sampling.temperature}` is negative", "use 0 or more")
    if sampling.n > 1 and sampling.temperature == 0:
        raise UsageError(
            f"`--samples {sampling.n}` at temperature 0 gives the same answer to `{task.id}`"
            f" {sampling.n} times",
            "add `--temperature 1.0`, or leave `--samples` out",
        )


def write_plan(questions: Questions, path: Path, judge: Appointed | None = None) -> Plan:
    """Write the requests to `path` while hashing them. judge: who will grade the answers."""
    task = questions.task
    prompts, answers = hashlib.sha256(), hashlib.sha256()
    count = 0
    with writing(path), path.open("w", encoding="ascii") as file:
        for sample, request in _asked(questions):
            line = _line(sample, request)
            prompts.update(json.dumps([request.id, line["prompt"], request.choices]).encode())
            answers.update(json.dumps([sample.id, sample.target, sample.group]).encode())
            file.write(json.dumps(line) + "\n")
            count += 1
    parts: JSON = {
        "task": task.name,
        "variant": task.variant,
        "version": task.version,
        "shots": questions.shots,
        "chat": questions.chat,
        "limit": questions.limit,
        "sampling": _protocol_sampling(task),
        "graders": [f"{scorer.name}@{scorer.version}" for scorer in task.scorers],
        "prompts": prompts.hexdigest()[:16],
        "answers": answers.hexdigest()[:16],
    }
    if task.embedding is not None:
        parts["embedding"] = to_json(task.embedding)
    if questions.half is not None:
        parts["half"] = questions.half
    if judge is not None:
        parts["judge"] = judge.protocol()
    return Plan(
        task=task,
        path=path,
        n_samples=count,
        limit_n=questions.limit,
        half=questions.half,
        offline=questions.offline,
        dataset_revision=questions.revision,
        source=questions.source,
        protocol=fingerprint(parts),
        parts=parts,
        judge=judge,
    )


def fingerprint(parts: JSON) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _asked(questions: Questions) -> Iterator[tuple[Sample, Request]]:
    return zip(questions.samples, questions.requests(), strict=True)


def _line(sample: Sample, request: Request) -> JSON:
    """A request, and beside it what grading needs, so that re-scoring needs no dataset."""
    graded = {"target": sample.target, "choices": list(sample.choices), "group": sample.group}
    tags = {"tags": list(sample.tags)} if sample.tags else {}
    return {**to_json(request), "sample": {**graded, **tags}}


def _protocol_sampling(task: Task) -> JSON | None:
    """Two seeds of one protocol are comparable, so the seed is not a part of it; nor is a switch
    that is off, so that a new one leaves the other protocols as they were."""
    if task.kind != "generate":
        return None
    sampling = to_json(task.sampling).items()
    return {name: value for name, value in sampling if name != "seed" and value is not False}
