"""The process that lets lm-eval grade: `python -m harness.bridge.score FOLDER`, a run folder.

Its events: {"event": "sample", …} for each question (see `_graded`), {"event": "measure", …}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bridge.asking import metric_name, readable
from harness.bridge.job import JOB, enter_data_root, job_from_text, work
from harness.engines.worker import Channel
from harness.errors import StoreError
from harness.runs import read_completions, read_requests
from harness.types import JSON, to_json

if TYPE_CHECKING:
    from harness.bridge.asking import Asked, Instance
    from harness.bridge.build import Built

# What lm-eval's regular expressions give where nothing matches.
_UNREAD = "[invalid]"


def score(channel: Channel, arguments: list[str]) -> None:
    folder = Path(arguments[0]).absolute()
    job = job_from_text((folder / JOB).read_text(encoding="ascii"))
    enter_data_root(job)
    from harness.bridge.build import build, evaluate, task_manager
    from harness.bridge.measures import measures
    from harness.bridge.model import BridgeLM, replies

    built = build(job, task_manager(job))
    questions: list[Asked] = []

    def answers(requests: Sequence[Instance]) -> list[Any]:
        if not questions:
            questions.extend(built.questions())
            _require_same(folder, questions)
        return replies(questions, read_completions(folder), requests)

    results = evaluate(built, BridgeLM(answers))
    for sample in _graded(built, questions, results["samples"]):
        channel.send("sample", **sample)
    for measure in measures(built, results):
        channel.send("measure", **to_json(measure))


def _require_same(folder: Path, questions: Sequence[Asked]) -> None:
    """What lm-eval asks now must be what was answered."""
    stored = {line["id"]: line for line in read_requests(folder)}
    for one in questions:
        line = dict(stored.get(one.request.id, {}))
        line.pop("sample", None)
        if line != json.loads(json.dumps(to_json(one.request))):
            raise StoreError(
                f"`{one.request.id}` is no longer what was asked in {folder}: lm-eval or the "
                "dataset has changed since",
                "ask anew with `bench eval --fresh`",
            )


def _graded(built: Built, questions: Sequence[Asked], samples: Any) -> Iterator[JSON]:
    """Each question once: its requests, target, answer, and a value for each metric and filter."""
    by_sample: dict[str, list[Asked]] = {}
    for one in questions:
        by_sample.setdefault(one.sample_id, []).append(one)
    first_metric, first_filter = built.primary()
    primary = metric_name(first_metric, first_filter)
    logged: dict[str, list[JSON]] = {}
    for name in built.tasks:
        for entry in samples[name]:
            logged.setdefault(f"{name}/{entry['doc_id']}", []).append(entry)
    for sample_id, asked in by_sample.items():
        entries = logged[sample_id]
        grades = [grade for entry in entries for grade in _grades(entry, asked)]
        target, _ = readable(entries[0]["target"], asked[0])
        own = next((g for g in grades if g["metric"] == primary), None)
        yield {
            "sample_id": sample_id,
            "group_name": asked[0].group if len(built.tasks) > 1 else "",
            "requests": [one.request.id for one in asked],
            "target": target,
            "primary": own or {**grades[0], "metric": primary, "score": None},
            "grades": [grade for grade in grades if grade is not own],
        }


def _grades(entry: JSON, asked: Sequence[Asked]) -> Iterator[JSON]:
    answer = _answer(entry["filtered_resps"], asked)
    for metric in entry["metrics"]:
        yield {
            "metric": metric_name(metric, entry["filter"]),
            "score": per_sample(entry[metric]),
            "answer": answer,
        }


def per_sample(value: Any) -> float | None:
    """What one question contributes; None for metrics that are defined over all of them only.

    A pair is a log-likelihood and its length in words or bytes: their quotient, higher is better.

    >>> per_sample(True), per_sample((-12.0, 4)), per_sample(("gold", "answer"))
    (1.0, -3.0, None)
    """
    match value:
        case bool() | int() | float():
            return float(value)
        case (int() | float() as total, int() | float() as length) if length > 0:
            return float(total) / float(length)
        case _ if hasattr(value, "item"):  # a number of numpy
            return per_sample(value.item())
        case _:
            return None


def _answer(filtered: Sequence[Any], asked: Sequence[Asked]) -> str | None:
    """The text that a filter read, the likeliest choice, or the log-probability."""
    request = asked[0].request
    if request.kind == "generate":
        read = filtered[0] if len(filtered) == 1 else filtered
        text = read if isinstance(read, str) else json.dumps(read, default=str)
        return None if text == _UNREAD else text
    if request.kind == "choose":
        logprobs = [logprob for logprob, _ in filtered[: len(request.choices)]]
        _, choices = readable("", asked[0])
        return choices[logprobs.index(max(logprobs))]
    value = filtered[0] if request.kind == "rolling" else filtered[0][0]
    return f"{value:.6g}"


if __name__ == "__main__":
    sys.exit(work(score))
