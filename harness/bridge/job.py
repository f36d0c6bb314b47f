"""What lm-eval is asked for, and how its processes are started and heard (no lm-eval in here)."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines.worker import Channel, end_with_parent
from harness.errors import BenchError, DataError, StoreError, UsageError, WorkerError
from harness.launch import ended_on_exit, explain, start
from harness.types import JSON

JOB = "lm_eval.json"
INCLUDE = "LM_EVAL_INCLUDE_PATH"
FEWSHOT_SEED = 1234  # lm-eval's default

_FAMILIES: dict[str, type[BenchError]] = {
    family.__name__: family for family in (UsageError, DataError, StoreError)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task of lm-eval and all that decides what it asks; kept in the run folder for grading.

    name: as lm-eval calls it. include: folders with task files. defaults: whether lm-eval's own
    task files are looked through too. limit: questions of each subtask. temperature, max_tokens:
    instead of the task's.
    """

    name: str
    data_root: str | None = None
    include: tuple[str, ...] = ()
    defaults: bool = True
    shots: int | None = None
    seed: int | None = None
    limit: int | None = None
    chat: bool = False
    temperature: float | None = None
    max_tokens: int | None = None

    def to_text(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def job_from_text(text: str) -> Job:
    value = json.loads(text)
    return Job(**{**value, "include": tuple(value["include"])})


def include_folders() -> tuple[str, ...]:
    """The folders of $LM_EVAL_INCLUDE_PATH, joined as in PATH."""
    folders = [Path(name) for name in os.environ.get(INCLUDE, "").split(os.pathsep) if name]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"`{folder}` in {INCLUDE} is not a folder", f"correct {INCLUDE}")
    return tuple(str(folder.absolute()) for folder in folders)


def require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            "tasks called `lm_eval/…` need lm-evaluation-harness, which is not installed",
            "pip install 'tunebench[lm-eval]'",
        )


def ask(module: str, arguments: list[str], *, log: Path, what: str) -> Iterator[JSON]:
    """The events of one of our processes with lm-eval in it, which is gone afterwards.

    what: what it is to do, for messages. Raises the BenchError that it reports, and WorkerError
    where lm-eval or the task's own code raised.
    """
    child = start(module, arguments, log=log)
    assert child.stdout is not None
    with ended_on_exit(child):
        for line in child.stdout:
            event: JSON = json.loads(line)
            if event["event"] == "failed":
                raise _FAMILIES[event["family"]](event["message"], event["hint"])
            yield event
        ending = explain(child.wait(), log)
    if ending.cause:
        raise WorkerError(
            f"lm-eval could not {what}: {ending.message}",
            "the message is lm-eval's; datasets are looked for in the data root, and without one "
            "in the hub cache and on the hub",
            cause="lm_eval_error",
        )


def work(step: Callable[[Channel, list[str]], None]) -> int:
    """The main function of such a process: reports what the user can fix, dies of all else."""
    channel = Channel()
    end_with_parent()
    try:
        step(channel, sys.argv[1:])
    except BenchError as error:
        family = type(error).__name__
        channel.send("failed", family=family, message=error.message, hint=error.hint)
    return 0


def enter_data_root(job: Job) -> None:
    """lm-eval finds `org/name` below the current folder; must precede the import of datasets."""
    offline: dict[str, Any] = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ.update({"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"})
    if job.data_root is not None:
        os.environ.update(offline)
        os.chdir(job.data_root)
