"""Any trainer that runs as a program: its own interpreter, its own packages, our run folder.

    python -m trainers.command FOLDER

The program finds recipe.json and train.jsonl in the folder and leaves `checkpoint/`; it may append
to steps.jsonl. What it prints is read, too: lines that fit `step_pattern` become steps. In the
command these words are filled in: {folder}, {model}, {train}, {checkpoint}, {checkpoints}, {seed}.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError, WorkerError
from harness.trainer import (
    CHECKPOINT,
    CHECKPOINTS,
    TRAIN,
    Trainer,
    read_params,
    read_recipe,
    write_step,
)
from harness.types import Recipe
from trainers.running import run

_WORDS = ("folder", "model", "train", "checkpoint", "checkpoints", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """command: program and arguments. working_folder: where it runs, the run folder if empty.
    environment: variables laid over ours. step_pattern: a regular expression with the named group
    `step` and one for each measure, as `step (?P<step>\\d+) loss (?P<loss>\\S+)`."""

    command: tuple[str, ...]
    working_folder: str = ""
    environment: dict[str, str] | None = None
    step_pattern: str = ""

    def __post_init__(self) -> None:
        if not self.command:
            raise UsageError("`params.command` is empty", "`command: [python, train.py]`")
        for word in re.findall(r"\{(\w+)\}", " ".join(self.command)):
            if word not in _WORDS:
                raise UsageError(
                    f"`params.command` has `{{{word}}}`, which stands for nothing",
                    f"there are: {', '.join(_WORDS)}",
                )
        try:
            groups = re.compile(self.step_pattern).groupindex
        except re.error as error:
            raise UsageError(
                f"`params.step_pattern` is no regular expression: {error}", "correct it"
            ) from None
        if self.step_pattern and "step" not in groups:
            raise UsageError("`params.step_pattern` has no group `step`", r"`(?P<step>\d+)`")


TRAINER = Trainer(
    name="command",
    summary="any program that leaves a checkpoint: open-instruct, LLaMA-Factory, axolotl, a script",
    data="demonstrations",
    params=Params,
)


def filled(params: Params, recipe: Recipe, folder: Path) -> list[str]:
    """The command with its words filled in; other braces stay as they are."""
    words = {
        "folder": folder,
        "model": recipe.model_path,
        "train": folder / TRAIN,
        "checkpoint": folder / CHECKPOINT,
        "checkpoints": folder / CHECKPOINTS,
        "seed": recipe.seed,
    }
    pattern = re.compile(r"\{(" + "|".join(words) + r")\}")
    return [pattern.sub(lambda found: str(words[found[1]]), part) for part in params.command]


def main(folder: Path) -> None:
    recipe = read_recipe(folder)
    params: Params = read_params(recipe, TRAINER)
    command = filled(params, recipe, folder)
    pattern = re.compile(params.step_pattern) if params.step_pattern else None
    for line in _output(command, params, folder):
        print(line, end="", flush=True)
        found = pattern.search(line) if pattern else None
        if found:
            _write(folder, {k: v for k, v in found.groupdict().items() if v is not None})


def _write(folder: Path, found: dict[str, str]) -> None:
    step = int(float(found.pop("step").replace(",", "")))
    write_step(folder, step, {name: float(value) for name, value in found.items()})


def _die_with_parent() -> None:
    """In the child: Linux kills it when we are gone (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _output(command: list[str], params: Params, folder: Path) -> Iterator[str]:
    """The lines that the program prints. Raises WorkerError where it cannot start or fails."""
    try:
        child = subprocess.Popen(
            command,
            cwd=Path(params.working_folder).expanduser() if params.working_folder else folder,
            env={**os.environ, **(params.environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=_die_with_parent,
        )
    except OSError as error:
        raise WorkerError(
            f"`{command[0]}` cannot be started: {error.strerror}",
            "give the path of the program or of the interpreter in `params.command`",
            cause="import_error",
        ) from None
    assert child.stdout is not None
    yield from child.stdout
    status = child.wait()
    if status < 0:
        name = signal.Signals(-status).name
        raise WorkerError(f"the program was killed by {name}", cause="killed")
    if status:
        # Its own last words are in the log, from which the cause is read.
        sys.exit(status)


if __name__ == "__main__":
    run(main)
