"""Sessions that share one engine start: one worker answers the runs of all their models in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from harness import runs, store
from harness.errors import BenchError, WorkerError
from harness.infer import Job, Part, infer
from harness.plan import Plan
from harness.session import Session
from harness.task import Task
from harness.types import JSON, Run


class Inferring(Protocol):
    """What answers a job: `infer.infer`, or a worker that is kept."""

    def __call__(self, job: Job, *, log: Path, hold: Sequence[int] = ()) -> Iterator[JSON]: ...


def evaluate_together(
    sessions: Sequence[Session], plans: Sequence[Plan], answered: Inferring = infer
) -> None:
    """Every model under every plan; the runs are then in each session's `results`."""
    with _stored(sessions[0]) as stack:
        for session in sessions:
            session.begin(plans, stack)
        _work(sessions, answered)


def finish(session: Session, run: Run, task: Task) -> Run:
    """Go on with a run that was interrupted or failed."""
    with _stored(session) as stack:
        session.begin_again(run, task, stack)
        _work([session])
    return session.results()[0]


@contextmanager
def _stored(session: Session) -> Iterator[ExitStack]:
    """Whatever happens inside, locks are given back and the history learns of it."""
    with ExitStack() as stack:
        stack.callback(store.sync, session.home, say=session.listener.note)
        yield stack


def _work(sessions: Sequence[Session], answered: Inferring = infer) -> None:
    """Ask the models, then the judges of their answers; bugs of graders are told at the end."""
    try:
        _ask(sessions, answered)
        for session in sessions:
            session.judge()
    except KeyboardInterrupt:
        for session in sessions:
            session.close_all(WorkerError("interrupted by the user", cause="interrupted"))
        raise
    if bugs := [bug for session in sessions for bug in session.bugs]:
        raise bugs[0]


def _ask(sessions: Sequence[Session], answered: Inferring) -> None:
    """Have all open runs answered, if any, by as few workers as it takes."""
    parts = [(session, session.part()) for session in sessions]
    left = [(session, part) for session, part in parts if part is not None]
    try:
        while left:
            left = _follow(left, answered)
    finally:
        for session in sessions:
            session.ahead.stop()


def _follow(asked: list[tuple[Session, Part]], answered: Inferring) -> list[tuple[Session, Part]]:
    """Start a worker for these and follow its events to the end; those that need another one. A
    worker that dies over a model takes none of the later ones with it."""
    leader, first = asked[0]
    job = Job(
        model=first.model,
        engine=leader.engine,
        settings=leader.settings,
        runs=first.runs,
        then=tuple(part for _, part in asked[1:]),
    )
    locks = [lock for session, _ in asked for lock in session.locks]
    turns = _Turns(asked)
    try:
        for event in answered(job, log=_shared_log(job.parts), hold=locks):
            turns.of(event).hear(event)
    except BenchError as error:
        leader.report(error)
        lost = turns.loaded or len(asked)
        for session, _ in asked[:lost]:
            session.fail(error)
        return asked[lost:]
    return []


class _Turns:
    """Whose event it is. A session's time runs from its first event on. loaded: the number of the
    last model whose weights were there, from 1."""

    def __init__(self, asked: Sequence[tuple[Session, Part]]) -> None:
        self._sessions = [session for session, _ in asked]
        self._by_model = {session.spec.name: session for session in self._sessions}
        self._owners = {str(folder): own for own, part in asked for folder, _ in part.runs}
        self._current = self._sessions[0]
        self.loaded = 0

    def of(self, event: JSON) -> Session:
        named = event.get("run")
        session = self._by_model[event["model"]] if named is None else self._owners[named]
        if session is not self._current:
            self._current, session.begun = session, time.monotonic()
        if event["event"] == "loaded":
            self.loaded = self._sessions.index(session) + 1
        return session


def _shared_log(parts: Sequence[Part]) -> Path:
    """One worker serves all these runs, so they share one log: a hard link in each folder."""
    folders = [folder for part in parts for folder, _ in part.runs]
    log = folders[0] / runs.WORKER_LOG
    with runs.writing(log):
        log.touch()
        for folder in folders[1:]:
            if not (folder / runs.WORKER_LOG).exists():
                os.link(log, folder / runs.WORKER_LOG)
    return log
