"""The worth of a checkpoint on the tuning half, from an engine that stays for all trials."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb

from harness import evaluate, runs, together
from harness.errors import WorkerError
from harness.hosting import place
from harness.ingest import ONE_THREAD, quoted
from harness.session import Listener, Session
from harness.task import Task
from harness.tuning.engine_host import EngineHost
from harness.types import ModelSpec, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """value: the task's primary measure. correct, wrong, format_failure: answers of each kind;
    from the last none could be read. start_s: until the engine was ready."""

    value: float
    correct: int
    wrong: int
    format_failure: int
    start_s: float


class Scoring:
    """Plans the questions once and asks them of one checkpoint after another.

    given: variables of the environment of the engine's process.
    """

    def __init__(
        self,
        base: ModelSpec,
        task: Task,
        options: evaluate.Options,
        given: Mapping[str, str | None],
        listener: Listener,
    ) -> None:
        self._home = runs.home_folder(options.home)
        self._base, self._task, self._options = base, task, options
        self._listener = listener
        self._host = EngineHost(given)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            planned = evaluate.planned([self._base], [self._task], self._options)
            _, self._plans = stack.enter_context(planned)
            stack.callback(self._host.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stack.close()

    def worth(self, spec: ModelSpec) -> Worth:
        """Raises WorkerError where the evaluation did not end well; its run says why."""
        engine, settings = evaluate.engine_settings(spec, self._options)
        session = Session(
            self._home,
            place(spec, engine, settings),
            engine,
            settings,
            seed=self._options.seed,
            fresh=True,
            listener=self._listener,
        )
        together.evaluate_together([session], self._plans, self._host)
        run = session.results()[0]
        if run.status != "done":
            raise WorkerError(
                f"the evaluation `{run.run_id}` {run.status}: {run.error}",
                cause=run.cause or "worker_error",
            )
        return self._measured(run)

    def _measured(self, run: Run) -> Worth:
        folder = runs.folder_of(self._home, run.run_id)
        kinds = _kinds(folder)
        return Worth(value=runs.primary(self._home, run), start_s=self._host.start_s, **kinds)


def _kinds(folder: Path) -> dict[str, int]:
    """Right is what scores at least half; what is not is wrong where it could be read."""
    query = (
        "SELECT count(*) FILTER (score >= 0.5), count(*) FILTER (score < 0.5 AND parsed), "
        f"count(*) FILTER (score < 0.5 AND NOT parsed) FROM read_parquet("
        f"{quoted(folder / runs.SAMPLES)})"
    )
    with duckdb.connect(config=ONE_THREAD) as db:
        found = db.execute(query).fetchone()
    assert found is not None, "a count always has a row"
    return dict(zip(("correct", "wrong", "format_failure"), map(int, found), strict=True))
