"""The process that lets lm-eval render: `python -m harness.bridge.plan JOB REQUESTS`.

It writes the requests and sends one event, {"event": "planned", …}: see `Planned` in `planning`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bridge.asking import metric_name, readable
from harness.bridge.job import enter_data_root, job_from_text, work
from harness.engines.worker import Channel
from harness.types import JSON, SamplingParams, to_json

if TYPE_CHECKING:
    from harness.bridge.asking import Asked, Instance
    from harness.bridge.build import Built


class _Rendered(Exception):  # noqa: N818 (no error: it ends lm-eval's evaluator)
    """All requests are there: lm-eval wants the first answers."""


def plan(channel: Channel, arguments: list[str]) -> None:
    job, path = job_from_text(arguments[0]), Path(arguments[1]).absolute()
    enter_data_root(job)
    from harness.bridge.build import build, require_shots, task_manager

    built = build(job, task_manager(job))
    _render(built)
    require_shots(job, list(built.tasks.values()))
    questions = built.questions()
    path.write_text("".join(_line(one, built) + "\n" for one in questions), encoding="ascii")
    channel.send("planned", **_described(built, questions, path))


def _render(built: Built) -> None:
    from harness.bridge.build import evaluate
    from harness.bridge.model import BridgeLM

    def stop(requests: Sequence[Instance]) -> list[Any]:
        raise _Rendered

    try:
        evaluate(built, BridgeLM(stop))
    except _Rendered:
        return
    raise AssertionError("lm-eval never asked its model")


def _line(one: Asked, built: Built) -> str:
    """As other plans write it, so that a saved answer can be graded by a grader of ours too."""
    first = one.instances[0]
    target, choices = readable(built.tasks[one.group].doc_to_target(first.doc), one)
    group = one.group if len(built.tasks) > 1 else ""
    sample = {"target": target, "choices": list(choices), "group": group}
    return json.dumps({**to_json(one.request), "sample": sample})


def _described(built: Built, questions: Sequence[Asked], path: Path) -> JSON:
    samplings = [one.request.sampling for one in questions if one.request.sampling is not None]
    metric, filtered = built.primary()
    prompts, answers = hashlib.sha256(), hashlib.sha256()
    for line in path.read_text(encoding="ascii").splitlines():
        request = json.loads(line)
        answers.update(json.dumps([request["id"], request.pop("sample")]).encode())
        request.get("sampling", {}).pop("seed", None)
        prompts.update(json.dumps(request).encode())
    return {
        "folders": built.folders(),
        "n_samples": len({one.sample_id for one in questions}),
        # The run's own: the most random of them, since a seed matters as soon as one is random.
        "sampling": to_json(max(samplings, key=_randomness)) if samplings else None,
        "metric": metric_name(metric, filtered),
        "dataset": _dataset(built),
        "revision": _revision(questions),
        "shots": _common({name: task.config.num_fewshot for name, task in built.tasks.items()}),
        "versions": _common({name: task.VERSION for name, task in built.tasks.items()}),
        "prompts": prompts.hexdigest()[:16],
        "answers": answers.hexdigest()[:16],
    }


def _randomness(sampling: SamplingParams) -> float:
    return sampling.temperature


def _common(values: dict[str, Any]) -> Any:
    """The one value that all subtasks have, else the value of each."""
    distinct = list(values.values())
    return distinct[0] if all(value == distinct[0] for value in distinct) else values


def _dataset(built: Built) -> JSON:
    named: dict[str, set[str]] = {"path": set(), "config": set(), "split": set()}
    for task in built.tasks.values():
        named["path"].add(str(task.config.dataset_path))
        named["config"].add(str(task.config.dataset_name or "default"))
        named["split"].add(str(task.config.test_split or task.config.validation_split))
    return {
        key: next(iter(values)) if len(values) == 1 else f"{len(values)} {key}s"
        for key, values in named.items()
    }


def _revision(questions: Sequence[Asked]) -> str:
    """Of the rows that were asked: lm-eval does not say which commit they are from."""
    digest = hashlib.sha256()
    for one in questions:
        digest.update(json.dumps(one.instances[0].doc, sort_keys=True, default=str).encode())
    return f"sha256:{digest.hexdigest()[:12]}"


if __name__ == "__main__":
    sys.exit(work(plan))
