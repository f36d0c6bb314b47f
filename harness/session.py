"""All runs of one model: opened, followed while a worker answers them, scored as they finish.

Here is decided which runs are new, which go on and which are done already, and what a worker
reports becomes manifests. `harness.together` starts the worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from harness import runs
from harness.ahead import Ahead
from harness.bridge.scoring import score_lm_eval
from harness.errors import BenchError, UsageError, WorkerError
from harness.infer import ONLY_SPEED, Part
from harness.judgements import write_appointed
from harness.judging import ask_judge
from harness.lm_eval_task import is_lm_eval
from harness.plan import Plan, fingerprint
from harness.provenance import process_age_s, provenance
from harness.score import Graded, GraderError, score
from harness.task import Task
from harness.types import JSON, ModelSpec, Run, RunStatus, to_json

# A run that another process finished after this one began is not this one's answer: whoever
# starts eight evaluations at once wants eight.
STARTED = runs.ago(process_age_s())
_FINISHED_HERE: set[str] = set()


class Listener(Protocol):
    """Who wants to hear how an evaluation goes."""

    def note(self, text: str) -> None: ...
    def progress(self, model: str, counts: JSON) -> None: ...


class Silent:
    def note(self, text: str) -> None:
        pass

    def progress(self, model: str, counts: JSON) -> None:
        pass


class Session:
    """Evaluate one model under a number of plans."""

    def __init__(
        self,
        home: Path,
        spec: ModelSpec,
        engine: str,
        settings: JSON,
        *,
        seed: int | None = None,
        fresh: bool = False,
        listener: Listener,
    ) -> None:
        self.home, self.spec, self.engine, self.settings = home, spec, engine, settings
        self.seed, self.fresh, self.listener = seed, fresh, listener
        self.open: dict[str, tuple[Run, Task]] = {}
        self.unjudged: list[str] = []
        self.locks: list[int] = []
        self.closed: dict[str, Run] = {}
        self.order: list[str] = []
        self.asked: tuple[str, ...] = ()
        self.start_anew = ""
        self.bugs: list[GraderError] = []
        self.ahead = Ahead({})
        self.begun = time.monotonic()

    def begin(self, plans: Sequence[Plan], stack: ExitStack) -> None:
        """Open one run for each plan. stack: gives their locks back."""
        self.order = [self._begin(plan, stack) for plan in plans]
        for plan, run_id in zip(plans, self.order, strict=True):
            if plan.judge is not None and run_id in self.open:
                write_appointed(runs.folder_of(self.home, run_id), plan.judge)

    def begin_again(self, run: Run, task: Task, stack: ExitStack) -> None:
        """Open a run from its folder alone: its requests are there, no dataset is needed."""
        lock = runs.lock(runs.folder_of(self.home, run.run_id))
        if lock is None:
            raise UsageError(f"`{run.run_id}` is being worked on by another process")
        self.order = [self._hold(self._go_on(run), task, lock, stack)]

    def results(self) -> list[Run]:
        """One run for each plan, in order; failed ones too."""
        return [self.closed[run_id] for run_id in self.order]

    def _begin(self, plan: Plan, stack: ExitStack) -> str:
        """Open the run for a plan: one that is done, one to go on with, or a new one."""
        asked = self._new_run(plan)
        for other in () if self.fresh else runs.earlier(self.home, asked):
            if other.status == "done" and _is_earlier(other):
                what = f"{other.model} on {plan.task.id}"
                self.listener.note(
                    f"{what} is done already: {other.run_id} (`bench eval --fresh` repeats it)"
                )
                self.closed[other.run_id] = other
                return other.run_id
            if other.status in ("failed", "interrupted"):
                lock = runs.lock(runs.folder_of(self.home, other.run_id))
                if lock is not None:
                    return self._hold(self._go_on(other), plan.task, lock, stack)
        lock = runs.create(self.home, asked, plan.path, plan.sidecars)
        return self._hold(asked, plan.task, lock, stack)

    def _hold(self, run: Run, task: Task, lock: int, stack: ExitStack) -> str:
        stack.callback(os.close, lock)
        self.locks.append(lock)
        self.open[run.run_id] = (run, task)
        return run.run_id

    def _go_on(self, run: Run) -> Run:
        self.listener.note(f"going on with {run.run_id}")
        again = replace(run, status="running", cause=None, error=None)
        return runs.write_manifest(self.home, again)

    def _new_run(self, plan: Plan) -> Run:
        task, spec, origin = plan.task, self.spec, provenance()
        return Run(
            run_id=runs.new_run_id("eval", spec.name, task.id),
            kind="eval",
            status="running",
            model=spec.name,
            model_path=spec.path,
            model_revision=spec.revision,
            model_fingerprint=spec.fingerprint,
            parent=spec.parent,
            task=task.name,
            variant=task.variant,
            task_version=task.version,
            task_file=task.file,
            dataset=f"{task.dataset.path}/{task.dataset.config}/{task.dataset.split}",
            dataset_revision=plan.dataset_revision,
            protocol=plan.protocol,
            protocol_parts=plan.parts,
            primary_metric=task.scorers[0].metric,
            n_samples=plan.n_samples,
            limit_n=plan.limit_n,
            engine=self.engine,
            engine_settings=self.settings,
            sampling=to_json(task.sampling) if task.kind == "generate" else {},
            seed=self.seed,
            started_at=runs.now(),
            git_commit=origin.git_commit,
            git_dirty=origin.git_dirty,
            packages=origin.packages,
            argv=origin.argv,
            flags=(*_flags(plan), *(("steered",) if self.settings.get("steer") else ())),
            notes=f"trained by {spec.run}" if spec.run else "",
            key=self._key(plan),
        )

    def _key(self, plan: Plan) -> str:
        spec, task = self.spec, plan.task
        settings = {k: v for k, v in self.settings.items() if k not in ONLY_SPEED}
        engine_args = [spec.engine_args] if spec.engine_args and self.engine == "vllm" else []
        greedy = task.kind != "generate" or task.sampling.temperature == 0
        return fingerprint(
            {
                "model": [spec.name, spec.fingerprint, spec.adapter, spec.chat_template],
                "numbers": [self.engine, spec.dtype, spec.max_model_len, settings, *engine_args],
                "protocol": plan.protocol,
                "seed": None if greedy else task.sampling.seed,
                "offline": plan.offline,
            }
        )

    def part(self) -> Part | None:
        """What a worker is to answer for this model, None where nothing is open."""
        self.asked = tuple(self.open)
        folders = {run_id: runs.folder_of(self.home, run_id) for run_id in self.open}
        if not folders:
            return None
        self.ahead = Ahead({folders[i]: task for i, (_, task) in self.open.items()})
        asked = ((folders[i], task.id) for i, (_, task) in self.open.items())
        return Part(model=self.spec, runs=tuple(asked))

    def fail(self, error: BenchError) -> None:
        """The worker is gone: what it had not finished has failed."""
        for run_id in [run_id for run_id in self.open if run_id not in self.unjudged]:
            self._close(run_id, error)

    def judge(self) -> None:
        """Let judges read the answers that wait for it, now that the model's memory is free."""
        if not self.unjudged:
            return
        waiting = {runs.folder_of(self.home, i): self.open[i][1] for i in self.unjudged}
        told = self.listener.progress
        for folder, error in ask_judge(self.home, waiting, hold=self.locks, tell=told).items():
            if error is None:
                self._score(folder.name)
            else:
                self.report(error)
                self._close(folder.name, error)

    def hear(self, event: JSON) -> None:
        """Take in one event of the worker (they are listed in `harness.engines.worker`)."""
        match event["event"]:
            case "tokenized":
                run, task = self.open[_run_id(event)]
                counts = {**event["counts"], "first_ids": event["counts"]["first_ids"][:64]}
                self._update(replace(run, engine_stats=counts), task)
            case "loaded":
                self._loaded(event["info"])
            case "progress":
                self.ahead.look()
                self.listener.progress(self.spec.name, event)
            case "refused":
                task = self.open[_run_id(event)][1]
                why = f"`{task.id}` cannot be asked: {event['message']}"
                error = WorkerError(why, event["hint"], cause=event["cause"])
                self.report(error)
                self._close(_run_id(event), error)
            case "finished":
                self._finish(_run_id(event))
            case "stats":
                self._record_stats(event["stats"])
            case "start_anew":
                self.listener.note(
                    f"{self.spec.name}: gets an engine start of its own: {event['message']}"
                )
                self.start_anew = event["message"]

    def _loaded(self, info: JSON) -> None:
        self.listener.note(f"{self.spec.name}: {_where(info)}")
        for run, task in list(self.open.values()):
            started = replace(
                run,
                engine_version=info["engine_version"],
                dtype=info["dtype"],
                device=info["device"],
                gpus=info["gpus"],
                packages={**run.packages, **info["packages"]},
            )
            self._update(started, task)

    def _record_stats(self, stats: JSON) -> None:
        """The engine counts over all runs of the session; each of them keeps those counts."""
        for run_id in self.asked:
            waits = run_id in self.open
            run = self.open[run_id][0] if waits else self.closed[run_id]
            why = {"start_anew": self.start_anew} if self.start_anew else {}
            merged = replace(run, engine_stats={**run.engine_stats, "session": stats, **why})
            if waits:
                self._update(merged, self.open[run_id][1])
            else:
                self.closed[run_id] = runs.write_manifest(self.home, merged)

    def _update(self, run: Run, task: Task) -> None:
        self.open[run.run_id] = (runs.write_manifest(self.home, run), task)

    def _finish(self, run_id: str) -> None:
        """A run whose requests are all answered is scored, at once or after its judge."""
        if self.open[run_id][1].judge:
            self.unjudged.append(run_id)
        else:
            self._score(run_id)

    def _score(self, run_id: str) -> None:
        run, task = self.open[run_id]
        try:
            graded = self._graded(run_id, task)
        except BenchError as error:
            self.report(error)
            self._close(run_id, error)
            return
        except GraderError as error:
            # A bug, but the other runs of the model need not wait for its repair.
            self.bugs.append(error)
            self._close(run_id, WorkerError(str(error), cause="scoring_error"))
            return
        done = replace(
            run,
            status="done",
            n_samples=graded.n_samples,
            prompt_tokens=graded.prompt_tokens,
            completion_tokens=graded.completion_tokens,
            outputs_sha256=graded.outputs_sha256,
            flags=tuple(dict.fromkeys((*run.flags, *graded.flags))),
        )
        self._put_away(done)

    def _graded(self, run_id: str, task: Task) -> Graded:
        folder = runs.folder_of(self.home, run_id)
        if is_lm_eval(task):
            return score_lm_eval(folder, task)
        if task.embedding is not None:
            # numpy and scikit-learn, which only these tasks need
            from harness.embedded import score_embedded

            return score_embedded(folder, task)
        return score(folder, task, self.ahead.take(folder).find)

    def close_all(self, error: BenchError) -> None:
        for run_id in list(self.open):
            self._close(run_id, error)

    def _close(self, run_id: str, error: BenchError) -> None:
        """A run that did not end well: what was answered is kept, the reason is written down."""
        run, _ = self.open[run_id]
        cause = error.cause if isinstance(error, WorkerError) else "storage"
        halted = cause in ("killed", "interrupted") or cause.startswith(("judge_", "server_"))
        status: RunStatus = "interrupted" if halted else "failed"
        self._put_away(replace(run, status=status, cause=cause, error=error.message))

    def _put_away(self, run: Run) -> None:
        # A run that was interrupted has its earlier seconds already.
        seconds = run.seconds + time.monotonic() - self.begun
        ended = replace(run, finished_at=runs.now(), seconds=round(seconds, 3))
        self.closed[run.run_id] = runs.write_manifest(self.home, ended)
        del self.open[run.run_id]
        if run.status == "done":
            _FINISHED_HERE.add(run.run_id)

    def report(self, error: BenchError) -> None:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        self.listener.note(f"error: {error.message}{hint}")


def _flags(plan: Plan) -> tuple[str, ...]:
    offline = ("offline_sample",) if plan.offline else ()
    offline = (*offline, f"half={plan.half}") if plan.half else offline
    # A score with one judge is no score with another: the name stands beside every number.
    return offline if plan.judge is None else (*offline, f"judge={plan.judge.spec.name}")


def _where(info: JSON) -> str:
    if info["dtype"]:
        return f"loaded on {info['device']} in {info['dtype']}"
    return f"asked at {info['device']} ({info['engine_version']})"


def _is_earlier(run: Run) -> bool:
    return (run.finished_at or "") < STARTED or run.run_id in _FINISHED_HERE


def _run_id(event: JSON) -> str:
    return Path(event["run"]).name
