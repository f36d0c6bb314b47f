"""The worker process: `python -m harness.engines.worker JOB`, where JOB is one JSON object.

It answers the requests of several runs with one engine start, appends each completion to the
run's own file, and reports to its parent by JSON lines on stdout. A job has one part for each
model, and the parts are worked on in turn.

    {"event": "tokenized", "run", "counts"}  what the tokenizer makes of a run, before weights load
    {"event": "refused", "run", "cause", "message", "hint"}
    {"event": "loaded", "model", "info"}     EngineInfo
    {"event": "progress", "model", "done", "total", "prompt_tokens", "completion_tokens"}
    {"event": "finished", "run"}             every request of that run is answered
    {"event": "stats", "model", "stats"}     the engine's own counts, at the end of a part
    {"event": "start_anew", "part", "model", "message"}  this part and the rest need a new worker
    {"event": "failed", "cause", "message", "hint"}

Without a job on the command line it reads jobs, a line each, from stdin, and says {"event": "idle"}
after each one. Its engine stays: the next model takes the place of the last. `log` of such a job is
the file that what libraries print goes to from then on.

Standard library only, apart from the engine: the interpreter may be another environment's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.util
import json
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from harness.engines.base import (
    SETTINGS,
    SHARED,
    Engine,
    SharedEngine,
    StartAnewError,
    replicated,
)
from harness.engines.importing import kept_for_good
from harness.errors import WorkerError
from harness.runs import COMPLETIONS, mend_tail, read_completions, read_requests
from harness.types import JSON, Completion, ModelSpec, Request, request_from_json, to_json

# Causes that another model of the same start need not share.
_OF_ONE_MODEL = ("adapter_mismatch", "bad_checkpoint")


class Channel:
    """JSON lines to the parent. Libraries that print must not be able to break them."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, event: str, **fields: Any) -> None:
        self._out.write(json.dumps({"event": event, **fields}) + "\n")
        self._out.flush()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one run asks and what of it is answered.

    Request ids carry the task in front, so that they are distinct over runs and a sampling stream
    depends only on the task and the question, not on what else is in the queue.
    """

    folder: Path
    prefix: str
    requests: tuple[Request, ...]
    done: frozenset[tuple[str, int]]

    @property
    def missing(self) -> int:
        return sum(r.sampling.n if r.sampling else 1 for r in self.requests) - len(self.done)


def read_work(run: JSON) -> Work:
    folder, prefix = Path(run["folder"]), run["task"] and f"{run['task']}/"
    mend_tail(folder / COMPLETIONS)
    requests = tuple(
        dataclasses.replace(request, id=prefix + request.id)
        for request in map(request_from_json, read_requests(folder))
    )
    done = frozenset((prefix + c.request_id, c.index) for c in read_completions(folder))
    return Work(folder=folder, prefix=prefix, requests=requests, done=done)


def make_engine(
    name: str, model: ModelSpec, settings: JSON, companions: Sequence[ModelSpec] = ()
) -> Engine:
    """companions: further models that the same start is to serve."""
    if replicated(settings):
        if importlib.util.find_spec("ray") is None:
            raise WorkerError(
                "replicas need Ray, which is not installed",
                "`pip install 'tunebench[ray]'`",
                cause="import_error",
            )
        from harness.engines.replicas import RayEngine

        return RayEngine(name, model, settings, make_engine)
    with kept_for_good():
        return _one_engine(name, model, SETTINGS[name](**settings), companions)


def _one_engine(name: str, model: ModelSpec, typed: Any, companions: Sequence[ModelSpec]) -> Engine:
    if name == "hf":
        from harness.engines.hf import HFEngine

        return HFEngine(model, typed)
    if name == "vllm":
        from harness.engines.vllm import VLLMEngine
        from harness.engines.vllm_replicas import ReplicatedEngine

        if (count := typed.data_parallel_size or model.data_parallel_size) > 1:
            return ReplicatedEngine(model, typed, companions, count)
        return VLLMEngine(model, typed, companions)
    if name == "openai":
        from harness.engines.openai import OpenAIEngine

        return OpenAIEngine(model, typed)
    from harness.engines.mock import MockEngine

    return MockEngine(model, typed)


def accepted(engine: Engine, works: Sequence[Work], channel: Channel) -> Iterator[Work]:
    """The runs whose prompts fit the model; the others are refused, each with its reason."""
    for work in works:
        if work.missing == 0:
            channel.send("finished", run=str(work.folder))
            continue
        try:
            counts = engine.tokenize(work.requests)
        except WorkerError as error:
            channel.send("refused", run=str(work.folder), **_described(error))
        else:
            channel.send("tokenized", run=str(work.folder), counts=dataclasses.asdict(counts))
            yield work


class Progress:
    """Tells the parent how far the runs of a model are, at most five times a second."""

    def __init__(self, model: str, works: Sequence[Work], channel: Channel) -> None:
        self._model = model
        self._channel = channel
        self._missing = {work.folder: work.missing for work in works}
        self._counts = {"done": 0, "total": sum(self._missing.values())}
        self._counts |= {"prompt_tokens": 0, "completion_tokens": 0}
        self._told = 0.0

    def add(self, folder: Path, completion: Completion) -> None:
        self._missing[folder] -= 1
        self._counts["done"] += 1
        self._counts["prompt_tokens"] += completion.prompt_tokens if completion.index == 0 else 0
        self._counts["completion_tokens"] += completion.completion_tokens
        if time.monotonic() - self._told > 0.2 or self._counts["done"] == self._counts["total"]:
            self._told = time.monotonic()
            self._channel.send("progress", model=self._model, **self._counts)
        if self._missing[folder] == 0:
            self._channel.send("finished", run=str(folder))


def answer(engine: Engine, model: str, works: Sequence[Work], channel: Channel) -> None:
    """Put the requests of all runs in one queue; write each completion into its own run."""
    owners = {request.id: work for work in works for request in work.requests}
    skip = frozenset(key for work in works for key in work.done)
    progress = Progress(model, works, channel)
    with contextlib.ExitStack() as stack:
        files = {
            work.folder: stack.enter_context((work.folder / COMPLETIONS).open("ab"))
            for work in works
        }
        for completion in engine.run(tuple(r for work in works for r in work.requests), skip):
            work = owners[completion.request_id]
            raw_id = completion.request_id.removeprefix(work.prefix)
            line = json.dumps(to_json(dataclasses.replace(completion, request_id=raw_id)))
            files[work.folder].write(line.encode() + b"\n")
            files[work.folder].flush()
            progress.add(work.folder, completion)


def work_on(job: JSON, channel: Channel, running: SharedEngine | None = None) -> Engine:
    """The engine that answered. running: one to go on with."""
    models = [ModelSpec(**part["model"]) for part in job["parts"]]
    engine = running or make_engine(job["engine"], models[0], job["settings"], models[1:])
    for number, (model, part) in enumerate(zip(models, job["parts"], strict=True)):
        if number or running is not None:
            cast(SharedEngine, engine).switch(model)
        works = tuple(accepted(engine, [read_work(run) for run in part["runs"]], channel))
        if job["tokenize_only"] or not works:
            continue
        try:
            info = engine.load()
        except StartAnewError as error:
            channel.send("start_anew", part=number, model=model.name, message=error.message)
            return engine
        except WorkerError as error:
            if len(models) == 1 or error.cause not in _OF_ONE_MODEL:
                raise
            for work in works:
                channel.send("refused", run=str(work.folder), **_described(error))
            continue
        channel.send("loaded", model=model.name, info=dataclasses.asdict(info))
        answer(engine, model.name, works, channel)
        channel.send("stats", model=model.name, stats=engine.stats())
    return engine


def serve(channel: Channel) -> None:
    """Work on jobs as they come; the parent gives no other engine or settings meanwhile."""
    jobs = _jobs()
    running: SharedEngine | None = None
    while True:
        job = jobs.get()
        _write_into(job["log"])
        engine = work_on(job, channel, running)
        if job["engine"] in SHARED and not replicated(job["settings"]):
            running = cast(SharedEngine, engine)
        channel.send("idle")


def _jobs() -> queue.Queue[JSON]:
    """What is asked, as it comes; when stdin closes the parent is gone, and so is this process."""
    asked: queue.Queue[JSON] = queue.Queue()

    def read() -> None:
        with os.fdopen(os.dup(0), encoding="utf-8") as lines:
            for line in lines:
                asked.put(json.loads(line))
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()
    return asked


def _write_into(log: str) -> None:
    target = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def end_with_parent() -> None:
    """stdin is a pipe that nobody writes to: it closes when the parent is gone."""

    def wait() -> None:
        # Not through sys.stdin, whose lock this thread would still hold when the interpreter ends.
        os.read(0, 1)
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def _described(error: WorkerError) -> JSON:
    return {"cause": error.cause, "message": error.message, "hint": error.hint}


def main() -> int:
    channel = Channel()
    try:
        if len(sys.argv) == 1:
            serve(channel)
        else:
            end_with_parent()
            work_on(json.loads(sys.argv[1]), channel)
    except WorkerError as error:
        channel.send("failed", **_described(error))
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = "free some space and repeat the command; what was finished is kept"
        full = WorkerError(f"the disk is full: {error}", hint, cause="disk_full")
        channel.send("failed", **_described(full))
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """Taking apart an interpreter that holds vLLM takes seconds and is of no use to anybody.
    Where processes of its own are to be ended, Python's way of leaving sees to that."""
    ray = sys.modules.get("ray")  # vLLM imports it wherever it is installed
    if multiprocessing.active_children() or (ray is not None and ray.is_initialized()):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
