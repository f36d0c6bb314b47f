"""Grades answers while the model still writes others, so that scoring hardly adds to a run.

What is graded here is only ever looked up by `harness.score`, which grades whatever is not ready:
a run scores the same without this module.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from harness.errors import BenchError
from harness.json_lines import read_line
from harness.lm_eval_task import is_lm_eval
from harness.runs import COMPLETIONS, REQUESTS
from harness.score import GraderError, graded, sample_of
from harness.task import Preparing, Task
from harness.types import Completion, Sample, Score, completion_from_json

_MOST_KEPT = 200_000
"""Answers of all runs; those beyond are graded when their run is scored."""
_BATCH = 32
_AT_ONCE = 4


class Ready:
    """The grades of a run's answers that are there already."""

    def __init__(self) -> None:
        self._grades: dict[tuple[str, int], tuple[int, tuple[Score, ...]]] = {}

    def __len__(self) -> int:
        return len(self._grades)

    def add(self, completion: Completion, grades: tuple[Score, ...]) -> None:
        key = completion.request_id, completion.index
        self._grades[key] = hash(completion.text), grades

    def find(self, completion: Completion) -> tuple[Score, ...] | None:
        """The grades of exactly this answer, in the order of the task's scorers."""
        text, grades = self._grades.get((completion.request_id, completion.index), (0, None))
        return grades if text == hash(completion.text) else None


class Ahead:
    """A thread that reads the completions of runs as they are appended, and grades them.

    Only of tasks whose answers are texts that no judge and no lm-eval has to read. `look` tells it
    that there may be news; `take` gives up a run to whoever scores it.
    """

    def __init__(self, tasks: Mapping[Path, Task]) -> None:
        self._runs = {folder: _Run(folder, task) for folder, task in tasks.items() if _fits(task)}
        self._changed = threading.Condition()
        self._news = self._busy = self._stopped = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._pool = ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1))
        if self._runs:
            self._prepare()
            self._thread.start()

    def _prepare(self) -> None:
        for scorer in (scorer for run in self._runs.values() for scorer in run.task.scorers):
            if isinstance(scorer, Preparing):
                scorer.prepare()

    def look(self) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def take(self, folder: Path) -> Ready:
        """The grades of a run that has all its answers, once the thread has read them: two that
        grade at once would need two processes for mathematics, each a second's start."""
        if folder not in self._runs:
            return Ready()
        self.look()
        with self._changed:
            self._changed.wait_for(lambda: not (self._news or self._busy))
        run = self._runs.pop(folder, None)
        return Ready() if run is None else run.ready

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._news or self._stopped)
                if self._stopped:
                    return
                self._news, self._busy = False, True
            for run in list(self._runs.values()):
                self._grade(run)

    def _grade(self, run: _Run) -> None:
        """Everything new in a run."""
        kept = sum(len(other.ready) for other in self._runs.values())
        try:
            news = islice(run.news(), max(0, _MOST_KEPT - kept))
            while batch := [*islice(news, _BATCH)]:
                if self._stopped:
                    return
                # The symbolic part of a grade waits for a process: several go on at once.
                for _ in self._pool.map(run.grade, batch):
                    pass
        except (BenchError, GraderError, OSError, ValueError, KeyError):
            # Whatever is wrong is told when the run is scored, which meets it again.
            self._runs.pop(run.folder, None)


class _Run:
    """A run that is being answered: what is read of its files, and the grades so far."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self.task, self.ready = folder, task, Ready()
        self._read = 0
        self._places: dict[str, tuple[int, int]] = {}

    def news(self) -> Iterator[Completion]:
        """The completions that were appended since the last one that was taken from here."""
        path = self.folder / COMPLETIONS
        if not path.exists():
            return
        if not self._places:
            self._index()
        with path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield completion_from_json(read_line(line))

    def grade(self, completion: Completion) -> None:
        sample = self._sample(completion.request_id)
        grades = tuple(graded(scorer, sample, completion) for scorer in self.task.scorers)
        self.ready.add(completion, grades)

    def _sample(self, request_id: str) -> Sample:
        # Prompts of five examples each for 14,000 questions are not to be held in memory.
        with (self.folder / REQUESTS).open("rb") as file:
            start, length = self._places[request_id]
            file.seek(start)
            return sample_of(read_line(file.read(length)))

    def _index(self) -> None:
        start = 0
        with (self.folder / REQUESTS).open("rb") as file:
            for line in file:
                self._places[read_line(line)["id"]] = start, len(line)
                start += len(line)


def _fits(task: Task) -> bool:
    return task.kind == "generate" and not task.judge and not is_lm_eval(task)
