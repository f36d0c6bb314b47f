"""The process in which a worker's trials are evaluated: one engine start for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import WorkerError
from harness.infer import WORKER, Job, explained
from harness.tuning.talking import Talking
from harness.types import JSON


class EngineHost:
    """Answers jobs of one engine with one set of settings (`harness.together.Inferring`).

    start_s: how long the last job waited for a model that is ready to answer.
    """

    def __init__(self, given: Mapping[str, str | None]) -> None:
        self._given = given
        self._child: Talking | None = None
        self.start_s = 0.0

    def __call__(self, job: Job, *, log: Path, hold: Sequence[int] = ()) -> Iterator[JSON]:
        """The worker's events as they come. Raises WorkerError; the next job gets a new worker.

        hold: not passed on, since the worker outlives the runs; it ends with this process.
        """
        left: Job | None = job
        begun = time.monotonic()
        while left is not None:
            current, left = left, None
            for event in self._answers(current, log):
                if event["event"] == "loaded":
                    self.start_s = time.monotonic() - begun
                if event["event"] == "start_anew":
                    left = current.without(event["part"])
                yield event
            if left is not None:
                self.close()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _answers(self, job: Job, log: Path) -> Iterator[JSON]:
        if self._child is None:
            python = str(job.settings.get("python", ""))
            self._child = Talking(WORKER, log=log, python=python, variables=self._given)
        child, self._child = self._child, None  # until the job is done it may not go on
        try:
            child.ask({**job.to_json(), "log": str(log)})
            while (event := child.hear()) is not None:
                if event["event"] == "idle":
                    self._child = child
                    return
                if event["event"] == "failed":
                    raise WorkerError(event["message"], event["hint"], cause=event["cause"])
                yield event
            explained(job, child.status(), log)
        finally:
            if self._child is None:
                child.close()
