"""Asks worker processes whether two answers are equal, and kills the ones that take too long.

sympy is never imported here: what a model wrote is only parsed in the workers.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from harness.errors import BenchError
from harness.scorers.guard import refusal
from harness.types import JSON

LIMIT_S = 0.85
"""Of the processor, and so of the clock where nothing else runs: a verdict must not depend on how
busy the machine is."""
_PROCESSOR_LIMIT_S = 0.6
_PATIENCE_S = 30.0
_START_LIMIT_S = 60.0
_CACHED = 65_536
_LONGEST_OUTPUT = 200_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """why: '' for a verdict, else what ended it: 'time limit', 'MemoryError', …"""

    equal: bool
    why: str = ""


@lru_cache(maxsize=_CACHED)
def verdict(kind: str, answer: str, gold: str) -> Verdict:
    """Whether an answer equals a gold answer by one of the rules of `verdicts.KINDS`.

    Not equal where the time limit ends it, and for text that no rule is given to read. Raises
    BenchError where sympy or math-verify is missing.
    """
    # A whole output may hold anything; math-verify looks for its formulas itself.
    reason = refusal(answer) if kind != "math_verify" else _too_long(answer)
    if reason:
        return Verdict(False, f"not read: {reason}")
    with _borrowed(kind) as worker:
        return worker.ask(kind, answer, gold)


def prepare(kind: str) -> None:
    """Start a worker for a rule, unless there was one; returns at once.

    It takes most of a second until it answers, which is nobody's time where a grader begins with
    answers that need no symbols. Each rule has its own: to warm all of them takes two seconds.
    """
    if kind in _started:
        return
    with _lock:
        if kind not in _started:
            _started.add(kind)
            _idle.setdefault(kind, []).append(_start(kind))


def _too_long(output: str) -> str:
    return "too long" if len(output) > _LONGEST_OUTPUT else ""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    child: int = 0
    unread: bytes = b""
    inbox: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def ask(self, kind: str, answer: str, gold: str) -> Verdict:
        assert self.process.stdin is not None
        if not self.child:
            self.child = self._next_child()
        line = json.dumps([kind, answer, gold, _PROCESSOR_LIMIT_S]).encode() + b"\n"
        begun, used = time.monotonic(), _processor_s(self.child)
        self.process.stdin.write(line)
        self.process.stdin.flush()
        reply = self._reply(begun + LIMIT_S)
        while reply is None and self._waits_for_the_processor(begun, used):
            reply = self._reply(time.monotonic() + 0.05)
        if reply is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
            self.child = 0
            return Verdict(False, "time limit")
        if "pid" in reply:  # the child ended by itself, out of memory or stack
            self.child = reply["pid"]
            return Verdict(False, "the worker ended")
        return Verdict(reply["equal"], reply.get("why", ""))

    def _waits_for_the_processor(self, begun: float, used: float) -> bool:
        """Whether a verdict is late only because other processes had the processor."""
        patient = time.monotonic() - begun < _PATIENCE_S
        return patient and _processor_s(self.child) - used < LIMIT_S

    def _next_child(self) -> int:
        """The process id of the child that answers from now on. Starting is no part of a verdict:
        it takes a second at first (see `prepare`) and milliseconds after a kill."""
        while True:
            reply = self._reply(time.monotonic() + _START_LIMIT_S)
            if reply is None or "missing" in reply:
                reason = reply["missing"] if reply else "its worker does not start"
                raise BenchError(
                    f"the math graders cannot run: {reason}", "`pip install 'tunebench[math]'`"
                )
            if "pid" in reply:  # a verdict that came just too late is passed over
                return int(reply["pid"])

    def _reply(self, deadline: float) -> JSON | None:
        assert self.process.stdout is not None
        while b"\n" not in self.unread:
            if not self.inbox.select(max(0.0, deadline - time.monotonic())):
                return None
            part = os.read(self.process.stdout.fileno(), 65_536)
            if not part:
                raise BenchError(
                    f"the math worker ended with exit status {self.process.wait()}",
                    "`python -m harness.scorers.math_worker` shows why",
                )
            self.unread += part
        line, _, self.unread = self.unread.partition(b"\n")
        reply: JSON = json.loads(line)
        return reply


def _processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used, 0 for one that is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # Linux: the clock of another process
    except OSError:
        return 0.0


_idle: dict[str, list[_Worker]] = {}
_started: set[str] = set()
_lock = threading.Lock()


def _forget_workers() -> None:
    """In a forked process: the pipes belong to the parent, and a thread of it may hold the lock."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()
    _started.clear()


@atexit.register
def stop_workers() -> None:
    """Ends the worker processes; a later verdict starts new ones."""
    with _lock:
        workers = [worker for idle in _idle.values() for worker in idle]
        _idle.clear()
        _started.clear()
    for worker in workers:
        _end(worker)


def _end(worker: _Worker) -> None:
    worker.inbox.close()
    worker.process.kill()
    worker.process.communicate()  # closes the pipes; the child ends when it reads their end


os.register_at_fork(after_in_child=_forget_workers)


@contextlib.contextmanager
def _borrowed(kind: str) -> Iterator[_Worker]:
    with _lock:
        _started.add(kind)
        idle = _idle.setdefault(kind, [])
        worker = idle.pop() if idle else None
    worker = worker or _start(kind)
    try:
        yield worker
    except BaseException:
        # A half-finished exchange would shift every later reply.
        _end(worker)
        raise
    with _lock:
        _idle.setdefault(kind, []).append(worker)


def _start(kind: str) -> _Worker:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.scorers.math_worker", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    worker = _Worker(process)
    assert process.stdout is not None
    worker.inbox.register(process.stdout, selectors.EVENT_READ)
    return worker
