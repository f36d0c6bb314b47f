"""The step that asks the model: one worker process for all runs of one model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

from harness.engines.base import Tokenized
from harness.errors import WorkerError
from harness.launch import ended_on_exit, explain, start
from harness.runs import REQUESTS, WORKER_LOG
from harness.types import JSON, ModelSpec, Request, to_json

WORKER = "harness.engines.worker"

# How requests are batched and where they are answered must not change a number.
ONLY_SPEED = {
    *("batch_size", "chunk_tokens", "python", "delay_s", "device"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
    *("gpu_memory_utilization", "kv_cache_gib", "enforce_eager"),
    *("replicas", "ray_address"),
    *("concurrency", "timeout_s", "retries", "api_key_env"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model and its runs: (run folder, task id; '' leaves request ids as they are)."""

    model: ModelSpec
    runs: tuple[tuple[Path, str], ...]

    def to_json(self) -> JSON:
        runs = [{"folder": str(folder), "task": task} for folder, task in self.runs]
        return {"model": to_json(self.model), "runs": runs}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is to do. runs: as in `Part`. settings: the engine's, checked. then: further
    models for the same engine start (see `harness.sharing`)."""

    model: ModelSpec
    engine: str
    settings: JSON
    runs: tuple[tuple[Path, str], ...]
    then: tuple[Part, ...] = ()
    tokenize_only: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        return Part(model=self.model, runs=self.runs), *self.then

    def without(self, count: int) -> Job:
        """What is left after the first parts."""
        first, *others = self.parts[count:]
        return dataclasses.replace(self, model=first.model, runs=first.runs, then=tuple(others))

    def to_json(self) -> JSON:
        return {
            "engine": self.engine,
            "settings": self.settings,
            "parts": [part.to_json() for part in self.parts],
            "tokenize_only": self.tokenize_only,
        }


def infer(job: Job, *, log: Path, hold: Sequence[int] = ()) -> Iterator[JSON]:
    """The worker's events as they come (see `harness.engines.worker`).

    A model that a running engine turns out not to serve gets a new worker, with those after it.
    Raises WorkerError when the worker says that it failed, or ends in any other way than success.
    The worker is gone when this generator is finished or closed.
    """
    left: Job | None = job
    while left is not None:
        current, left = left, None
        with contextlib.closing(_one_worker(current, log, hold)) as events:
            for event in events:
                if event["event"] == "start_anew":
                    left = current.without(event["part"])
                yield event


def _one_worker(job: Job, log: Path, hold: Sequence[int]) -> Generator[JSON, None, None]:
    # ascii: a lone surrogate in a path or name must not stop the job from being passed on.
    child = start(WORKER, [json.dumps(job.to_json())], log=log, python=_python(job), hold=hold)
    assert child.stdout is not None
    with ended_on_exit(child):
        for line in child.stdout:
            event: JSON = json.loads(line)
            if event["event"] == "failed":
                raise WorkerError(event["message"], event["hint"], cause=event["cause"])
            yield event
        status = child.wait()
    explained(job, status, log)


def explained(job: Job, status: int, log: Path) -> None:
    """Raises WorkerError for a worker that ended in any other way than success."""
    ending = explain(status, log)
    if ending.cause:
        install = f"`pip install 'tunebench[{job.engine}]'`, or see the log"
        told = install if ending.cause == "import_error" else "the whole log is"
        raise WorkerError(
            f"the {job.engine} worker ended early: {ending.message}",
            f"{told} in {log}; the same command goes on where it stopped",
            cause=ending.cause,
        )


def _python(job: Job) -> str:
    return str(job.settings.get("python", ""))


def inspect_requests(
    model: ModelSpec, requests: Iterable[Request], engine: str = "hf", settings: JSON | None = None
) -> Tokenized:
    """What the model's tokenizer makes of some requests; no weights are loaded.

    Raises WorkerError (cause context_length, no_chat_template, …) where they cannot be asked.
    """
    with tempfile.TemporaryDirectory(prefix="tunebench-") as name:
        folder = Path(name)
        with (folder / REQUESTS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(to_json(request)) + "\n" for request in requests)
        job = Job(
            model=model,
            engine=engine,
            settings=settings or {},
            runs=((folder, ""),),
            tokenize_only=True,
        )
        for event in infer(job, log=folder / WORKER_LOG):
            if event["event"] == "refused":
                raise WorkerError(event["message"], event["hint"], cause=event["cause"])
            if event["event"] == "tokenized":
                return tokenized_from_json(event["counts"])
    raise WorkerError("the worker ended without an answer", cause="worker_error")


def tokenized_from_json(value: JSON) -> Tokenized:
    tuples = {name: tuple(value[name]) for name in ("longest", "first_ids")}
    return Tokenized(**{**value, **tuples})
