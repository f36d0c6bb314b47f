"""The run folder: the truth about a run, from which the history is built.

manifest.json      written atomically; a folder without one was never a run
requests.jsonl     the plan: one request a line, with what grading needs under "sample"
completions.jsonl  appended by the worker; a torn last line is ignored
samples.parquet, grades.parquet, measures.json, steps.jsonl, worker.log
.lock              held (flock) by whoever works on the run: a killed run is known by it
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.errors import StoreError, UsageError, did_you_mean
from harness.json_lines import read_line
from harness.types import JSON, Completion, Run, completion_from_json, run_from_json, to_json

MANIFEST = "manifest.json"
REQUESTS = "requests.jsonl"
COMPLETIONS = "completions.jsonl"
SAMPLES = "samples.parquet"
MEASURES = "measures.json"
WORKER_LOG = "worker.log"

_BUFFER_BYTES = 1 << 20


def home_folder(home: str | Path | None = None) -> Path:
    """$BENCH_HOME unless given, else the current folder."""
    return Path(home or os.environ.get("BENCH_HOME") or ".").absolute()


def runs_folder(home: Path) -> Path:
    return home / "runs"


def folder_of(home: Path, run_id: str) -> Path:
    return runs_folder(home) / run_id


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return ago(0)


def ago(seconds: float) -> str:
    """What `now` said then."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_run_id(kind: str, model: str, what: str) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{kind}-{_slug(model)}-{_slug(what)}-{secrets.token_hex(3)}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", text).strip("_.")[-60:] or "x"


@contextlib.contextmanager
def writing(what: Path) -> Iterator[None]:
    """An operating-system refusal inside becomes a sentence that names the place and the cure."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space and repeat the command; what was finished is kept"
            raise StoreError(f"the disk is full: `{what}` could not be written", hint) from error
        hint = "set BENCH_HOME (or --home) to a folder that you may write to"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(f"`{what}` cannot be written: {reason}", hint) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`: readers see the old or the new content, also after a crash."""
    # Text from models may hold lone surrogates, which UTF-8 cannot carry.
    data = text.encode("utf-8", errors="replace")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_manifest(home: Path, run: Run) -> Run:
    text = json.dumps(to_json(run), indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder_of(home, run.run_id) / MANIFEST, text)
    return run


def primary(home: Path, run: Run) -> float:
    """A finished run's primary measure over all questions. Raises StoreError."""
    path = folder_of(home, run.run_id) / MEASURES
    for one in json.loads(path.read_text(encoding="utf-8")):
        if one["metric"] == run.primary_metric and not one["group"]:
            return float(one["value"])
    raise StoreError(f"`{path}` has no `{run.primary_metric}`", f"`bench score {run.run_id}`")


def read_manifest(folder: Path) -> Run:
    """The run of a folder; one whose process is gone reads as interrupted.

    Raises FileNotFoundError where there is no manifest and StoreError where it is torn.
    """
    path = folder / MANIFEST
    try:
        run = run_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        hint = f"move {folder} away; its completions can still be read"
        raise StoreError(f"the manifest `{path}` cannot be read: {error}", hint) from error
    if run.status == "running" and not is_locked(folder):
        return replace(run, status="interrupted", cause=run.cause or "killed")
    return run


def read_all(home: Path) -> Iterator[Run]:
    """Every readable run of a home, oldest first. Torn manifests are left to `bench runs list`."""
    for folder in run_folders(home):
        with contextlib.suppress(FileNotFoundError, StoreError):
            yield read_manifest(folder)


def run_folders(home: Path, pattern: str = "*") -> list[Path]:
    """Folders of runs, oldest first; hidden folders (drafts) are not runs."""
    found = runs_folder(home).glob(pattern)
    return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))


def find(home: Path, wanted: str) -> Run:
    """The run with this id, or the only one whose id begins or ends so."""
    ids = [folder.name for folder in run_folders(home)]
    matches = [i for i in ids if i == wanted] or [
        i for i in ids if wanted and (i.startswith(wanted) or i.endswith(wanted))
    ]
    if len(matches) == 1:
        return read_manifest(folder_of(home, matches[0]))
    if matches:
        raise UsageError(f"`{wanted}` fits {len(matches)} runs", f"for example `{matches[-1]}`")
    otherwise = "`bench runs list` shows all runs"
    raise UsageError(f"unknown run `{wanted}`", did_you_mean(wanted, ids, otherwise))


def earlier(home: Path, run: Run) -> Iterator[Run]:
    """Runs that asked the same question of the same weights, newest first."""
    pattern = f"*-{run.kind}-{_slug(run.model)}-*"
    for folder in reversed(run_folders(home, pattern)):
        with contextlib.suppress(FileNotFoundError, StoreError):
            other = read_manifest(folder)
            if other.key == run.key:
                yield other


def create(home: Path, run: Run, requests: Path, sidecars: Mapping[str, Path] | None = None) -> int:
    """A new run folder around a finished plan; returns its lock. sidecars: more files by name."""
    return create_with(home, run, {REQUESTS: requests, **(sidecars or {})})


def create_with(
    home: Path, run: Run, files: Mapping[str, Path], links: Mapping[str, Path] | None = None
) -> int:
    """A new run folder with copies of files by name; returns its lock. links: files that nobody
    changes, and which many runs share. The manifest is written last, so that nobody sees a run that
    is neither held nor finished."""
    folder = folder_of(home, run.run_id)
    with writing(folder):
        folder.mkdir(parents=True)
        held = lock(folder)
        assert held is not None, "a new folder has no other holder"
        for name, path in files.items():
            shutil.copyfile(path, folder / name)
        for name, path in (links or {}).items():
            os.link(path, folder / name)
    write_manifest(home, run)
    return held


@contextlib.contextmanager
def draft(home: Path, kind: str) -> Iterator[Path]:
    """A hidden folder for what is not a run yet; it vanishes with the context.

    Those that a killed process left behind vanish too: nobody holds them.
    """
    folder = runs_folder(home)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f".{kind}-*"):
            if (old / ".lock").exists() and not is_locked(old):
                shutil.rmtree(old, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix=f".new-{kind}-", dir=folder))
        held = lock(new)
        assert held is not None, "a new folder has no other holder"
        # It takes its name when it is held: before, others would clear it away as left behind.
        place = new.rename(folder / new.name.replace(".new-", ".", 1))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(held)


def lock(folder: Path) -> int | None:
    """A descriptor that holds the run until it is closed (by every process that inherited it).

    None where somebody else holds it.
    """
    with writing(folder):
        descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    for _ in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            # Perhaps only a reader that looks whether the run is held; those are done in no time.
            time.sleep(0.01)
    os.close(descriptor)
    return None


def is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        # Another user's run: its process cannot be asked, so its own word counts.
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def mend_tail(path: Path) -> None:
    """Cut a torn last line, so that the next one appended starts on a line of its own."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        if file.tell() > 0:
            file.truncate(0)


def read_completions(folder: Path) -> Iterator[Completion]:
    """Completions in the order in which they came; a torn last line is left out."""
    for line in _whole_lines(folder / COMPLETIONS):
        yield completion_from_json(line)


def read_requests(folder: Path) -> Iterator[JSON]:
    yield from _whole_lines(folder / REQUESTS)


def _whole_lines(path: Path) -> Iterator[JSON]:
    try:
        file = path.open("rb", buffering=_BUFFER_BYTES)
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield read_line(line)
            except ValueError as error:
                raise StoreError(
                    f"`{path}` line {number} is not JSON: {error}",
                    "the run folder is damaged; `--fresh` starts the run anew",
                ) from error
