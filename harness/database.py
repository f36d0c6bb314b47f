"""The database file: opened for a moment, waited for while busy, built anew when unusable.

One process may hold a DuckDB file for writing, and then nobody else can open it, not even to read.
Writers queue at a lock file of our own, so that a history is never built anew by two at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from harness import runs
from harness.errors import StoreError
from harness.ingest import LOADING, Config, Connection, Say, load_all, store_error
from harness.shipped import shipped

SCHEMA_VERSION = 4
"""Raised with every change of schema.sql, views.sql or the reference tables."""

T = TypeVar("T")

warn = logging.getLogger(__name__).warning

PATIENCE_S = 60.0
"""How long a busy history is waited for."""

_READ_ONLY: Config = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "lock_configuration": True,
}

MODEL_COLUMNS = ("name", "path", "revision", "parent", "run_id", "note")

_REASONS = {
    "empty": "is an empty file",
    "corrupt": "is damaged",
    "foreign": "is not a history of tunebench",
    "newer": "was written by a newer version",
    "older": "was written by an older version",
}


class _UnusableError(Exception):
    """The file must be built anew; `reason` becomes part of the name that the old one keeps."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def database(home: str | Path) -> Path:
    """Where the history of a home is."""
    return Path(home) / "leaderboards" / "bench.duckdb"


def connect(home: str | Path, read_only: bool = True, say: Say = warn) -> Connection:
    """A connection to the history of `home`, which is created or mended first if need be.

    Close it soon (it is a context manager): nobody can write while it is open, nor read while it
    is open for writing. A read-only one cannot reach any other file.
    Raises StoreError where the file stays busy for a minute or cannot be opened.
    """
    home = Path(home)
    path = database(home)
    seen = _identity(path)
    try:
        return _open(path, read_only)
    except _UnusableError as error:
        _mend(home, seen, error.reason, say)
    try:
        return _open(path, read_only)
    except _UnusableError as error:
        hint = "is another version of tunebench, or of duckdb, working on it?"
        raise StoreError(f"the history `{path}` cannot be used: {error.reason}", hint) from error


def rebuild(home: str | Path, say: Say = warn) -> list[str]:
    """Build the history anew from the run folders, then put it in place of the old one; the ids."""
    home = Path(home)
    path = database(home)
    with _turn(path):
        loaded = _build(home, say)
        _swap_in(path, aside=None)
    return loaded


def with_database(home: Path, read_only: bool, action: Callable[[Connection], T], say: Say) -> T:
    """What `action` returns; a file found damaged on the way is built anew and asked again."""
    path = database(home)
    with contextlib.nullcontext() if read_only else _turn(path):
        seen = _identity(path)
        try:
            with connect(home, read_only, say) as db:
                return action(db)
        except duckdb.Error as error:
            if not is_damage(error):
                raise store_error(error, path) from error
        _mend(home, seen, "corrupt", say)
        try:
            with connect(home, read_only, say) as db:
                return action(db)
        except duckdb.Error as error:
            raise store_error(error, path) from error


def is_damage(error: duckdb.Error) -> bool:
    """Whether the file itself is broken, rather than the statement wrong."""
    signs = (
        "Corrupt database file",
        "Could not read enough bytes",
        "database has been invalidated",
    )
    return any(sign in str(error) for sign in signs)


def _open(path: Path, read_only: bool) -> Connection:
    """Raises _UnusableError where there is no history of this schema in the file."""
    try:
        if path.stat().st_size == 0:
            raise _UnusableError("empty")
    except (FileNotFoundError, NotADirectoryError):
        raise _UnusableError("missing") from None
    config = _READ_ONLY if read_only else LOADING
    try:
        db = _patiently(path, lambda: duckdb.connect(str(path), read_only=read_only, config=config))
    except duckdb.Error as error:
        raise _reason(error, path) from error
    try:
        row = db.execute("SELECT max(version) FROM schema_version").fetchone()
        version = row[0] if row else None
    except duckdb.Error as error:
        db.close()
        is_other = isinstance(error, duckdb.CatalogException)
        raise _UnusableError("foreign" if is_other else "corrupt") from error
    if version == SCHEMA_VERSION:
        return db
    db.close()
    raise _UnusableError("newer" if (version or 0) > SCHEMA_VERSION else "older")


def _reason(error: duckdb.Error, path: Path) -> StoreError | _UnusableError:
    if path.is_dir() or not os.access(path, os.R_OK):
        return store_error(error, path)
    if any(sign in str(error) for sign in ("No space left", "Permission denied", "Read-only")):
        return store_error(error, path)
    return _UnusableError("newer" if "newer version" in str(error) else "corrupt")


def _patiently(path: Path, attempt: Callable[[], T]) -> T:
    """Try until the file is free: others hold it for one statement at a time."""
    deadline = time.monotonic() + PATIENCE_S
    wait_s = 0.01
    while True:
        try:
            return attempt()
        except (duckdb.IOException, duckdb.ConnectionException, BlockingIOError) as error:
            if not _is_busy(error):
                raise
            if time.monotonic() > deadline:
                raise _busy(path, error) from error
        # Jitter, or processes that met once would meet at each retry.
        time.sleep(random.uniform(wait_s / 2, wait_s))
        wait_s = min(wait_s * 1.5, 0.25)


def _is_busy(error: Exception) -> bool:
    signs = ("Could not set lock on file", "different configuration than existing connections")
    return isinstance(error, BlockingIOError) or any(sign in str(error) for sign in signs)


def _busy(path: Path, error: Exception) -> StoreError:
    holder = re.search(r"\(PID (\d+)\)", str(error))
    who = f"process {holder[1]}" if holder else "another process or an open connection"
    return StoreError(
        f"the history `{path}` has been held by {who} for {PATIENCE_S:.0f} s",
        "close it and repeat the command; finished runs are taken in by the next one",
    )


class _Held(threading.local):
    paths: frozenset[Path] = frozenset()


_held = _Held()


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold the right to write; within it, the same thread may take it again."""
    if path in _held.paths:
        yield
        return
    with runs.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        _patiently(path, lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))
        _held.paths |= {path}
        try:
            yield
        finally:
            _held.paths -= {path}
    finally:
        os.close(descriptor)


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def _mend(home: Path, seen: int | None, reason: str, say: Say) -> None:
    """Build the history anew, unless the file `seen` was replaced by somebody else meanwhile."""
    path = database(home)
    with _turn(path):
        if _identity(path) != seen:
            return
        aside = None
        if seen is not None:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            aside = path.with_name(f"{path.name}.{reason}-{stamp}")
            say(
                f"the history `{path}` {_REASONS[reason]}: it is built anew from the run folders, "
                f"the old file is kept as `{aside.name}`"
            )
        _build(home, say)
        _swap_in(path, aside)


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.draft")


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _build(home: Path, say: Say) -> list[str]:
    """A new history beside the old one, from the run folders; the ids of the runs in it."""
    path = database(home)
    draft = _draft(path)
    models = _saved_models(path)
    _discard(draft)
    try:
        with duckdb.connect(str(draft), config=LOADING) as db:
            _create(db)
            replace_models(db, models)
            loaded = load_all(db, runs.run_folders(home), say)
            db.execute("CHECKPOINT")
            return loaded
    except duckdb.Error as error:
        _discard(draft)
        raise store_error(error, path) from error


def _discard(draft: Path) -> None:
    with runs.writing(draft):
        draft.unlink(missing_ok=True)
        _wal(draft).unlink(missing_ok=True)


def read_models(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(f"SELECT {', '.join(MODEL_COLUMNS)} FROM models").fetchall()


def replace_models(db: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    db.begin()
    for row in sorted(rows, key=str):
        db.execute("DELETE FROM models WHERE name = ?", [row[0]])
        db.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?)", list(row))
    db.commit()


def _create(db: Connection) -> None:
    # One transaction: each of its own would wait for the disk.
    db.begin()
    for name in ("schema.sql", "views.sql"):
        db.execute(shipped(f"leaderboards/{name}").read_text(encoding="utf-8"))
    db.execute("INSERT INTO schema_version VALUES (?)", [SCHEMA_VERSION])
    names = [row[0] for row in db.execute("DESCRIBE reference_results").fetchall()]
    # Told what is in the files, DuckDB need not guess it from samples of them (80 ms).
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    number = "try_cast(value AS DOUBLE)"
    db.execute(
        f"INSERT INTO reference_results BY NAME SELECT * REPLACE ({number} AS value, "
        f"concat_ws('; ', CASE WHEN {number} IS NULL THEN value END, notes) AS notes) "
        f"FROM read_csv(?, header = true, auto_detect = false, columns = {{{columns}}})",
        [str(shipped("leaderboards/reference") / "*.csv")],
    )
    db.commit()


def _saved_models(path: Path) -> list[tuple[Any, ...]]:
    """The registry's entries in the old file: the one thing that no run folder holds."""
    try:
        with duckdb.connect(str(path), read_only=True, config=_READ_ONLY) as db:
            return read_models(db)
    except duckdb.Error:
        return []


def _swap_in(path: Path, aside: Path | None) -> None:
    with runs.writing(path):
        # The log belongs to the old file, and would be replayed into the new one.
        if aside is None:
            _wal(path).unlink(missing_ok=True)
        else:
            path.replace(aside)
            if _wal(path).exists():
                _wal(path).replace(_wal(aside))
        _draft(path).replace(path)
