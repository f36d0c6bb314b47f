"""`bench tune`: the tuning run around its trials, from the plan to the verdict on the best of them.

The same command goes on with a study, and several commands work on it at once: whoever comes first
holds the run, the others lend it their workers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from harness import runs, store
from harness.errors import BenchError, UsageError, WorkerError
from harness.launch import ended_on_exit, explain, start
from harness.provenance import provenance
from harness.session import Listener, Silent
from harness.training_process import visible_gpus
from harness.tuning.drafting import Drafted, drafted
from harness.tuning.places import places
from harness.tuning.plan import TUNING, Options
from harness.tuning.report import Outcome, report
from harness.tuning.studies import JOURNAL, folder_of
from harness.tuning.study import Study
from harness.tuning.worker import Job
from harness.types import JSON, Run

WORKER = "harness.tuning.worker"
WAIT_S = 0.5


def tune(name: str, options: Options, listener: Listener | None = None) -> Outcome:
    """Run trials until the study has as many as are wanted, then report on the best.

    Raises BenchError where nothing was started, or where no worker could work.
    """
    told = listener or Silent()
    home = runs.home_folder(options.evaluation.home)
    with drafted(name, options, told) as draft, ExitStack() as stack:
        stack.callback(store.sync, home, say=told.note)
        study = Study(home, draft.plan)
        run, lock = _begin(home, study, draft, told)
        if lock is not None:
            stack.callback(os.close, lock)
        begun = time.monotonic()
        try:
            _search(home, run, study, draft, options, told)
            if lock is None:
                run, lock = _held(home, run, stack, told)
            _wait_for_others(study, told)
            done = report(home, run, study, draft, options, told)
        except (KeyboardInterrupt, BenchError) as error:
            if lock is not None:
                _ended(home, run, begun, _why(error))
            raise
        return replace(done, run=_ended(home, run, begun, done.failure))


def preview(name: str, options: Options, listener: Listener | None = None) -> JSON:
    """What `--dry-run` shows. Raises BenchError for all that `tune` would refuse."""
    home = runs.home_folder(options.evaluation.home)
    with drafted(name, options, listener or Silent()) as draft:
        plan, begun = draft.plan, 0
        if (folder_of(home, plan.study) / JOURNAL).exists():
            begun = Study(home, plan).ended()
        return {
            "recipe": plan.recipe,
            "study": plan.study,
            "search": plan.search.model_dump(mode="json"),
            "space": [dataclasses.asdict(one) for one in plan.space],
            "trials": draft.trials,
            "trials_there": begun,
            "examples": plan.examples,
        }


def _begin(home: Path, study: Study, draft: Drafted, listener: Listener) -> tuple[Run, int | None]:
    """The run of the study with its lock; without where another process holds it."""
    with study.locked():
        # Somebody may begin the same study this very moment; the first one counts.
        if study.run_id is None:
            run = _new_run(draft)
            files = {path.name: path for path in draft.folder.iterdir() if path.name != ".lock"}
            lock = runs.create_with(home, run, files)
            study.run_id = run.run_id
            return run, lock
    return _go_on(home, study, draft, listener)


def _go_on(home: Path, study: Study, draft: Drafted, listener: Listener) -> tuple[Run, int | None]:
    run_id = str(study.run_id)
    folder = runs.folder_of(home, run_id)
    if not (folder / TUNING).exists():
        raise UsageError(
            f"the run `{run_id}` of the study `{draft.plan.study}` is gone",
            "`--study NAME` begins another one",
        )
    lock = runs.lock(folder)
    run = runs.read_manifest(folder)
    if lock is None:
        listener.note(f"taking part in {run_id}, which another process leads")
        return run, None
    listener.note(f"going on with {run_id}: {study.ended()} of {draft.trials} trials are there")
    again = replace(run, status="running", cause=None, error=None, argv=provenance().argv)
    return runs.write_manifest(home, again), lock


def _new_run(draft: Drafted) -> Run:
    plan, origin, asked = draft.plan, provenance(), draft.asked
    return Run(
        run_id=runs.new_run_id("tune", plan.base.name, plan.recipe),
        kind="tune",
        status="running",
        model=plan.base.name,
        model_path=plan.base.path,
        model_revision=plan.base.revision,
        model_fingerprint=plan.base.fingerprint,
        parent=plan.base.parent,
        dataset=", ".join(str(one["path"]) for one in plan.drawn),
        dataset_revision=", ".join(str(one["revision"]) for one in plan.drawn) or None,
        primary_metric=plan.search.objective,
        n_samples=plan.examples,
        engine="trainer",
        recipe={
            "name": plan.recipe,
            "asked": asked.values,
            "tasks": list(asked.shape.tasks),
            "search": plan.search.model_dump(mode="json"),
        },
        seed=plan.search.seed,
        started_at=runs.now(),
        git_commit=origin.git_commit,
        git_dirty=origin.git_dirty,
        packages=origin.packages,
        argv=origin.argv,
        flags=plan.flags,
        notes=f"study {plan.study}",
        key=plan.key,
    )


def _search(
    home: Path, run: Run, study: Study, draft: Drafted, options: Options, listener: Listener
) -> None:
    """Have workers run trials until there are enough. Raises WorkerError where all of them fail."""
    missing = draft.trials - study.ended()
    if missing <= 0:
        return
    count = min(options.workers, missing)
    gpus = [] if draft.plan.device == "cpu" else visible_gpus()
    jobs = [
        Job(
            home=home,
            run_id=run.run_id,
            trials=draft.trials,
            place=place,
            evaluation=replace(options.evaluation, home=home),
        )
        for place in places(count, gpus, draft.plan.processes)
    ]
    errors = _Workers(runs.folder_of(home, run.run_id), jobs, listener).run()
    for error in errors:
        listener.note(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
    if len(errors) == len(jobs):
        raise errors[0]


class _Workers:
    """Processes that run trials side by side."""

    def __init__(self, folder: Path, jobs: Sequence[Job], listener: Listener) -> None:
        self.folder, self.jobs, self.listener = folder, jobs, listener
        self.events: queue.Queue[tuple[int, JSON | None]] = queue.Queue()

    def run(self) -> list[WorkerError]:
        """Follow them to their end; an error for each that did not end well."""
        errors: dict[int, WorkerError] = {}
        with ExitStack() as stack:
            children = []
            for number, job in enumerate(self.jobs):
                log = self.folder / f"worker-{number}.log"
                child = start(WORKER, [json.dumps(job.to_json())], log=log)
                stack.enter_context(ended_on_exit(child))
                children.append((child, log))
                threading.Thread(target=self._listen, args=[number, child], daemon=True).start()
            left = set(range(len(children)))
            while left:
                number, event = self.events.get()
                if event is None:
                    left.discard(number)
                    child, log = children[number]
                    if status := child.wait():
                        errors.setdefault(number, self._error(status, log))
                elif event["event"] == "failed":
                    log = children[number][1]
                    hint = f"{event['hint']}\nthe whole log is in {log}".lstrip()
                    errors[number] = WorkerError(event["message"], hint, cause=event["cause"])
                else:
                    self._pass_on(event)
        return list(errors.values())

    def _error(self, status: int, log: Path) -> WorkerError:
        ending = explain(status, log)
        return WorkerError(
            f"a worker of the search ended early: {ending.message}",
            f"the whole log is in {log}",
            cause=ending.cause or "worker_error",
        )

    def _listen(self, number: int, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            self.events.put((number, json.loads(line)))
        self.events.put((number, None))

    def _pass_on(self, event: JSON) -> None:
        match event["event"]:
            case "note":
                self.listener.note(event["text"])
            case "progress":
                self.listener.progress(event["model"], event["counts"])
            case "began":
                values = ", ".join(f"{path} {_short(it)}" for path, it in event["params"].items())
                self.listener.note(f"trial {event['trial']}: {values}")
            case "ended":
                self.listener.note(_sentence(event))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sentence(event: JSON) -> str:
    told = event["told"]
    if event["state"] == "failed":
        return f"trial {event['trial']} failed ({told['cause']}): {told['error']}"
    return (
        f"trial {event['trial']} {event['state']} at step {told['last_step']}: "
        f"{event['value']:.4f} (step {told['best_step']}), {told['seconds']:.1f} s"
    )


def _held(home: Path, run: Run, stack: ExitStack, listener: Listener) -> tuple[Run, int]:
    """The run with its lock, once the process that leads it is done."""
    folder = runs.folder_of(home, run.run_id)
    listener.note(f"waiting for the process that leads {run.run_id}")
    while (lock := runs.lock(folder)) is None:
        time.sleep(WAIT_S)
    stack.callback(os.close, lock)
    return runs.read_manifest(folder), lock


def _wait_for_others(study: Study, listener: Listener) -> None:
    """The best trial is not known while another process is at one."""
    if study.is_running():
        listener.note("waiting for trials of other processes")
        while study.is_running():
            time.sleep(WAIT_S)


def _why(error: BaseException) -> BenchError:
    if isinstance(error, BenchError):
        return error
    return WorkerError("interrupted by the user", cause="interrupted")


def _ended(home: Path, run: Run, begun: float, error: BenchError | None) -> Run:
    cause = None
    if error is not None:
        cause = error.cause if isinstance(error, WorkerError) else "storage"
    ended = replace(
        run,
        status="done" if error is None else "interrupted" if cause == "interrupted" else "failed",
        cause=cause,
        error=None if error is None else error.message,
        finished_at=runs.now(),
        seconds=round(run.seconds + time.monotonic() - begun, 3),
    )
    return runs.write_manifest(home, ended)
