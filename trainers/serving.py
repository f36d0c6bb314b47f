"""A trainer's process that trains one folder after another.

    python -m trainers.serving

It reads a line {"folder", "log"} on stdin for each training and answers by JSON lines on stdout:
{"event": "ready"} once, {"event": "ended", "status", "last"} for each training; after `last` the
process is gone. Interpreter, libraries and start model are those of the first training. What one
prints is in its own log.
 An error that leaves torch in doubt ends the process, so that the next training gets a
new one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import IO

from harness.errors import BenchError
from harness.trainer import read_recipe
from trainers import keeping
from trainers.running import tell


def serve() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    asked = _folders()
    keeping.keep()
    import torch

    from trainers import watching

    _say(out, event="ready")
    harmless = (BenchError, watching.NotFiniteLossError)
    while True:
        folder, log = asked.get()
        _write_into(log)
        error = _train(folder)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        last = error is not None and not isinstance(error, harmless)
        _say(out, event="ended", status=int(error is not None), last=last)
        if last:
            return


def _train(folder: Path) -> Exception | None:
    """The error that ended the training, told in its folder and its log."""
    try:
        importlib.import_module(f"trainers.{read_recipe(folder).method}").main(folder)
    except Exception as error:  # noqa: BLE001 — whatever it is, it is told, and ends the process
        tell(folder, error)
        traceback.print_exc()
        return error
    return None


def _folders() -> queue.Queue[tuple[Path, Path]]:
    """What is asked, as it comes; when stdin closes the command is gone, and so is this process."""
    asked: queue.Queue[tuple[Path, Path]] = queue.Queue()

    def read() -> None:
        # Not through sys.stdin, whose lock this thread would still hold when the interpreter ends.
        with os.fdopen(os.dup(0), encoding="utf-8") as lines:
            for line in lines:
                given = json.loads(line)
                asked.put((Path(given["folder"]), Path(given["log"])))
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()
    return asked


def _write_into(log: Path) -> None:
    """stdout and stderr go to the end of that file from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _say(out: IO[str], **event: object) -> None:
    out.write(json.dumps(event) + "\n")
    out.flush()


if __name__ == "__main__":
    serve()
