"""A training run: from a recipe to a checkpoint that is registered, or to a failure with a cause.

Everything that can be wrong is looked for before the run folder is made. The same command finds the
run again and goes on from its last checkpoint; one that is done is shown, not repeated.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from harness import models, runs, store
from harness.errors import BenchError, UsageError, WorkerError
from harness.outcome import not_trained
from harness.provenance import provenance
from harness.recipes import Asked
from harness.session import Listener, Silent
from harness.trainer import CHECKPOINT, START
from harness.training_plan import Options, Prepared, prepared, steps_of
from harness.training_process import Meeting, StepReader, gpu_count, train
from harness.types import JSON, ModelSpec, Recipe, Run, RunStatus, to_json

MEETING_TIMEOUT_S = 600.0
SETTLING_S = 5.0


class Beside(Protocol):
    """Who evaluates checkpoints while a training runs."""

    def begin(self, run: Run, recipe: Recipe) -> None: ...
    def look(self, run: Run) -> None: ...


def train_recipe(name: str, options: Options, listener: Listener | None = None) -> Run:
    """Train what the recipe says; the run as it ended, failed or not.

    Raises BenchError where nothing was started.
    """
    told = listener or Silent()
    with prepared(name, options, told) as ready:
        if ready.asked.shape.evaluate_at or ready.asked.shape.evaluate_steps:
            told.note(
                "checkpoints are evaluated during a training by `bench train-then-eval` alone"
            )
        return train_prepared(ready, options, told)


def train_prepared(
    ready: Prepared, options: Options, told: Listener, beside: Beside | None = None
) -> Run:
    """The same for a recipe that was checked already. beside: looks at it meanwhile."""
    home = runs.home_folder(options.home)
    if ready.asked.shape.search is not None:
        told.note("`search` is left to `bench tune`: this is one training with the recipe's values")
    with ExitStack() as stack:
        if ready.recipe.num_machines > 1 and meeting_of(ready.asked).rank > 0:
            return _joined(home, ready, told)
        stack.callback(store.sync, home, say=told.note)
        run, lock = _begin(home, ready, options, told, stack)
        if lock is None:
            return _registered(home, run, ready.spec, options, told)
        ended = _work(home, run, ready, lock, told, beside)
        return _registered(home, ended, ready.spec, options, told)


def _begin(
    home: Path, ready: Prepared, options: Options, listener: Listener, stack: ExitStack
) -> tuple[Run, int | None]:
    """The run to go on with or a new one, with its lock; one that is done already, without."""
    asked = new_run(ready)
    for other in () if options.fresh else runs.earlier(home, asked):
        if other.status == "done":
            listener.note(f"trained already: {other.run_id} (--fresh trains anew)")
            return other, None
        other = _settled(home, other)
        if other.status == "running":
            raise UsageError(
                f"`{other.run_id}` is being trained by another process",
                "wait for it, or train a second time with `--fresh`",
            )
        lock = runs.lock(runs.folder_of(home, other.run_id))
        if lock is not None:
            stack.callback(os.close, lock)
            listener.note(f"going on with {other.run_id}")
            again = replace(other, status="running", cause=None, error=None, argv=asked.argv)
            return runs.write_manifest(home, again), lock
    passing = (runs.WORKER_LOG, ".lock")
    files = {path.name: path for path in ready.folder.iterdir() if path.name not in passing}
    lock = runs.create_with(home, asked, files)
    stack.callback(os.close, lock)
    return asked, lock


def _settled(home: Path, run: Run) -> Run:
    """The run once the processes of a killed command have let go of it, which takes a moment; one
    that another command has is running still."""
    deadline = time.monotonic() + SETTLING_S
    while run.status == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
        run = runs.read_manifest(runs.folder_of(home, run.run_id))
    return run


def new_run(ready: Prepared) -> Run:
    """The manifest of a training that is about to begin."""
    origin, recipe, spec = provenance(), ready.recipe, ready.spec
    return Run(
        run_id=runs.new_run_id("train", spec.name, ready.asked.name),
        kind="train",
        status="running",
        model=spec.name,
        model_path=spec.path,
        model_revision=spec.revision,
        model_fingerprint=spec.fingerprint,
        parent=spec.parent,
        dataset=", ".join(one.path for one in ready.data.drawn),
        dataset_revision=", ".join(one.revision for one in ready.data.drawn) or None,
        n_samples=len(ready.data.examples),
        engine="trainer",
        engine_version=ready.found.get("packages", {}).get("trl", ""),
        engine_stats={"check": {k: v for k, v in ready.found.items() if k != "packages"}},
        dtype={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[recipe.precision],
        recipe={
            "name": ready.asked.name,
            "asked": ready.asked.values,
            "resolved": to_json(recipe),
            "tasks": list(ready.asked.shape.tasks),
            "data": [to_json(one) for one in ready.data.drawn],
        },
        seed=recipe.seed,
        started_at=runs.now(),
        device=str(ready.found.get("device", "")),
        gpus=0 if recipe.device == "cpu" else min(gpu_count(), recipe.num_processes),
        prompt_tokens=int(ready.found.get("tokens", 0)),
        git_commit=origin.git_commit,
        git_dirty=origin.git_dirty,
        packages={**origin.packages, **ready.found.get("packages", {})},
        argv=origin.argv,
        flags=ready.flags,
        key=ready.key,
    )


def _work(
    home: Path, run: Run, ready: Prepared, lock: int, listener: Listener, beside: Beside | None
) -> Run:
    """Train, and write down how it ended."""
    folder = runs.folder_of(home, run.run_id)
    begun = time.monotonic()
    progress = _Progress(run, ready, listener)
    try:
        if not (folder / CHECKPOINT).is_dir():  # or it was killed right before its end
            if beside is not None:
                beside.begin(run, ready.recipe)
            train(
                ready.recipe,
                folder,
                meeting_of(ready.asked),
                hold=[lock],
                tell=progress.step,
                look=None if beside is None else lambda: beside.look(run),
            )
        if not (folder / CHECKPOINT).is_dir():
            raise WorkerError(
                f"the trainer ended and left no `{CHECKPOINT}/`",
                f"the whole log is in {folder / runs.WORKER_LOG}",
                cause="no_checkpoint",
            )
    except KeyboardInterrupt:
        _ended(home, run, begun, WorkerError("interrupted by the user", cause="interrupted"))
        raise
    except BenchError as error:
        listener.note(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return _ended(home, run, begun, error)
    if not (folder / CHECKPOINT / "adapter_config.json").exists():
        shutil.rmtree(folder / START, ignore_errors=True)  # only adapters stand on it
    done = replace(run, flags=(*run.flags, *not_trained(folder, ready.asked.trainer)))
    return _ended(home, done, begun, None)


def _joined(home: Path, ready: Prepared, listener: Listener) -> Run:
    """The run of the first machine, which this one takes part in; it keeps no record of its own."""
    asked, meeting = new_run(ready), meeting_of(ready.asked)
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    listener.note(f"machine {meeting.rank} waits for the run of machine 0 in {home}")
    while time.monotonic() < deadline:
        for other in runs.earlier(home, asked):
            if other.status == "running":
                listener.note(f"machine {meeting.rank} takes part in {other.run_id}")
                folder = runs.folder_of(home, other.run_id)
                train(ready.recipe, folder, meeting, hold=(), tell=lambda step: None)
                return replace(runs.read_manifest(folder), status="done")
        time.sleep(1.0)
    raise WorkerError(
        f"machine 0 began no run of this recipe within {MEETING_TIMEOUT_S:.0f} s",
        "start it with the same command and NODE_RANK=0, on a home that both machines see",
        cause="collective_timeout",
    )


def meeting_of(asked: Asked) -> Meeting:
    """Where several machines meet, by the recipe or else by the environment."""
    shape, usual = asked.shape, Meeting()
    rank = shape.machine_rank
    port = shape.main_process_port
    return Meeting(
        rank=int(os.environ.get("NODE_RANK", usual.rank)) if rank is None else rank,
        address=shape.main_process_ip or os.environ.get("MASTER_ADDR", usual.address),
        port=int(os.environ.get("MASTER_PORT", usual.port)) if port is None else port,
    )


class _Progress:
    """Tells a listener how far a training is, as an evaluation does."""

    def __init__(self, run: Run, ready: Prepared, listener: Listener) -> None:
        self.run, self.listener = run, listener
        self.total = steps_of(ready.recipe, int(ready.found.get("kept", 0)))
        self.tokens = 0

    def step(self, measures: JSON) -> None:
        done = int(measures["step"])
        counts = {"done": done, "total": max(self.total, done), "prompt_tokens": 0}
        counts["completion_tokens"] = 0
        self.listener.progress(f"{self.run.model} {self.run.kind}", counts)


def _ended(home: Path, run: Run, begun: float, error: BenchError | None) -> Run:
    status: RunStatus = "done"
    cause = None
    if error is not None:
        cause = error.cause if isinstance(error, WorkerError) else "storage"
        status = "interrupted" if cause == "interrupted" else "failed"
    ended = replace(
        run,
        status=status,
        cause=cause,
        error=error.message if error is not None else None,
        finished_at=runs.now(),
        seconds=round(run.seconds + time.monotonic() - begun, 3),
    )
    return runs.write_manifest(home, ended)


def _registered(home: Path, run: Run, spec: ModelSpec, options: Options, listener: Listener) -> Run:
    """The checkpoint in the model registry, with its parent and its run."""
    if options.register is not None and run.status == "done":
        register(home, run, spec, options.register, listener)
    return run


def register(home: Path, run: Run, spec: ModelSpec, name: str, listener: Listener) -> None:
    """Enter the checkpoint of a training of `spec` under a name."""
    checkpoint = runs.folder_of(home, run.run_id) / CHECKPOINT
    entry: JSON = {"path": str(checkpoint), "parent": spec.name, "run": run.run_id}
    if (checkpoint / "adapter_config.json").exists() and spec.adapter is not None:
        entry |= {"path": str(checkpoint.with_name(START)), "adapter": str(checkpoint)}
    elif (checkpoint / "adapter_config.json").exists():
        base = {"path": spec.path, "adapter": str(checkpoint)}
        entry |= base | ({"revision": spec.revision} if spec.revision else {})
        if spec.revision and os.path.isabs(spec.path):
            entry["path"] = spec.name.partition("@")[0]
    models.add(name, entry, home, replace=True)
    listener.note(f"registered as `{name}`, trained from `{spec.name}`")


def result_json(home: Path, run: Run, registered: str | None) -> JSON:
    """The public form of a result: `bench train --json`."""
    folder = runs.folder_of(home, run.run_id)
    checkpoint = folder / CHECKPOINT
    return {
        "run_id": run.run_id,
        "status": run.status,
        "cause": run.cause,
        "checkpoint": str(checkpoint) if checkpoint.is_dir() else None,
        "steps": last_step(folder),
        "model": registered if run.status == "done" else None,
    }


def last_step(folder: Path) -> int:
    return max((int(step["step"]) for step in StepReader(folder).new()), default=0)
