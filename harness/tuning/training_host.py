"""The process in which a worker's trials train, one after the other, from weights read once."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.runs import WORKER_LOG
from harness.training_process import LOOK_S, Meeting, failure, train, variables
from harness.tuning.talking import Talking
from harness.types import JSON, Recipe

MODULE = "trainers.serving"


class TrainingHost:
    """given: variables of the environment. A process is started when the first training needs it,
    and again after one that ended."""

    def __init__(self, given: Mapping[str, str | None]) -> None:
        self._given = given
        self._child: Talking | None = None

    def train(self, recipe: Recipe, folder: Path, look: Callable[[], None]) -> None:
        """Train in a run folder; `look` is called again and again meanwhile. Raises WorkerError.

        Several processes, and programs, are started anew for each training.
        """
        if recipe.launcher == "single" and recipe.method != "command":
            self._serve(recipe, folder, look)
        else:
            self.close()
            alone = Meeting()
            train(recipe, folder, alone, hold=(), tell=lambda step: None, look=look)
        look()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _serve(self, recipe: Recipe, folder: Path, look: Callable[[], None]) -> None:
        log = folder / WORKER_LOG
        if self._child is None:
            given = {**variables(recipe), **self._given}
            self._child = Talking(MODULE, log=log, variables=given)
        child, self._child = self._child, None  # until the training is done it may not go on
        try:
            child.ask({"folder": str(folder), "log": str(log)})
            ended = _ended(child, look)
            if ended is not None and not ended["last"]:
                self._child = child
        except BaseException:
            child.close()
            raise
        status = child.status() if self._child is None else 0
        status = status or (ended["status"] if ended else 1)
        if status:
            raise failure(folder, status, "the training", log)


def _ended(child: Talking, look: Callable[[], None]) -> JSON | None:
    """What the child says at the end of a training; None where it was gone before."""
    while True:
        look()
        try:
            event = child.hear(LOOK_S)
        except queue.Empty:
            continue
        if event is None or event["event"] == "ended":
            return event
