"""Child processes in their own session: started, ended as a group, and their end explained."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import WorkerError

PACKAGE = Path(__file__).resolve().parent

# Runs one of our modules under an interpreter that does not have them: folder, module, arguments.
_BORROW = """
import importlib.util, runpy, sys
_, folder, module, *arguments = sys.argv
spec = importlib.util.spec_from_file_location(
    "harness", folder + "/__init__.py", submodule_search_locations=[folder]
)
sys.modules["harness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

_TIMEOUT = "collective_timeout"

# What a log says about an exception, most telling first: pattern → cause label.
_CAUSES = (
    (r"NotFiniteLossError", "nan_loss"),
    (r"LossScaleUnderflowError|loss scale already at minimum", "loss_scale_underflow"),
    (r"out of memory|OutOfMemoryError|can't allocate memory|MemoryError", "out_of_memory"),
    (r"No space left on device|Disk quota exceeded", "disk_full"),
    (r"ModuleNotFoundError|ImportError", "import_error"),
    (r"Expected all tensors to be on the same device", "device_mismatch"),
    (r"collective operation timeout|[Tt]imed out (waiting|after)|[Ww]ait timeout", _TIMEOUT),
    (r"Signal 9 \(SIGKILL\)|exitcode\s*: -9", "killed"),
)
_EXCEPTION = re.compile(r"^(?:\[rank\d+\]:\s*)?((?:\w+\.)*\w*(?:Error|Exception)\b.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a child ended. cause: None for success, else a label fit for SQL."""

    status: int
    cause: str | None
    message: str = ""


def start(
    module: str,
    arguments: Sequence[str],
    *,
    log: Path,
    python: str = "",
    hold: Sequence[int] = (),
    talks: bool = True,
    variables: Mapping[str, str | None] | None = None,
) -> subprocess.Popen[str]:
    """Run `python -m module arguments…` in a session of its own, by default with this interpreter.

    stdout is a pipe of lines, stderr goes to the end of `log`; of a child that does not talk both
    go there. The child must end when its stdin closes, so that it never outlives a parent that was
    killed. hold: descriptors it inherits. variables: of the environment, None takes one away.
    """
    environment = dict(os.environ)
    if python:
        # Only our own package may be seen from there: the other packages beside it are those of
        # another environment, often in versions that do not fit.
        command = [python, "-c", _BORROW, str(PACKAGE), module, *arguments]
    else:
        command = [sys.executable, "-m", module, *arguments]
        paths = [str(PACKAGE.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # OpenMP threads that spin while they wait starve each other as soon as anything else runs on
    # the machine: twenty times slower was seen with two busy neighbours, and no loss alone.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = variables or {}
    environment |= {name: value for name, value in given.items() if value is not None}
    for name in [name for name, value in given.items() if value is None]:
        environment.pop(name, None)
    try:
        with log.open("ab") as stderr:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if talks else stderr,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                env=environment,
                start_new_session=True,
                pass_fds=tuple(hold),
            )
    except (FileNotFoundError, PermissionError) as error:
        raise WorkerError(
            f"the interpreter `{command[0]}` cannot be started: {error.strerror}",
            "give `--set python=PATH` the python of an environment that has the engine",
            cause="import_error",
        ) from error


@contextlib.contextmanager
def ended_on_exit(child: subprocess.Popen[str], grace_s: float = 10.0) -> Iterator[None]:
    """Whatever happens inside, the child and its whole group are gone afterwards."""
    try:
        yield
    finally:
        if child.poll() is None:
            _signal_group(child, signal.SIGTERM)
            try:
                child.wait(grace_s)
            except subprocess.TimeoutExpired:
                pass
        # Grandchildren may outlive the child, so the group is ended even where the child is gone.
        _signal_group(child, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _signal_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def explain(status: int, log: Path, since: int = 0) -> Ending:
    """The cause of an exit status, from the signal or from the last exception in the log.

    since: bytes of the log that are of an earlier attempt.
    """
    if status == 0:
        return Ending(status=0, cause=None)
    if status < 0:
        name = signal.Signals(-status).name
        by = " (the kernel does so when memory runs out)" if name == "SIGKILL" else ""
        return Ending(status=status, cause="killed", message=f"it was killed by {name}{by}")
    text = last_lines(log, 400, since=since)
    cause = next((label for pattern, label in _CAUSES if re.search(pattern, text)), "worker_error")
    message = _message(text)
    return Ending(status=status, cause=cause, message=f"exit status {status}: {message}")


def _message(text: str) -> str:
    """The last exception of a log; a launcher writes its own summary behind it."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [found[1] for line in said if (found := _EXCEPTION.match(line))]
    told = [line for line in raised if "ChildFailedError" not in line]
    return told[-1] if told else said[-1] if said else "it said nothing"


def last_lines(path: Path, n: int, most_bytes: int = 64_000, since: int = 0) -> str:
    """The end of a text file, from byte `since` on; '' where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, os.fstat(file.fileno()).st_size - most_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-n:])
