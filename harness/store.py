"""The history: one DuckDB file, built from the run folders and always buildable again.

One process may hold the file for writing, and then nobody else can open it. So it is opened for
the length of one statement or transaction, a busy file is waited for, writers queue at a lock file
of our own, and a run that could not be ingested is picked up by the next command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from harness import runs
from harness.database import (
    MODEL_COLUMNS,
    connect,
    database,
    is_damage,
    read_models,
    rebuild,
    replace_models,
    warn,
    with_database,
)
from harness.errors import StoreError, UsageError
from harness.ingest import (
    Connection,
    Say,
    delete_run,
    first_line,
    is_stale,
    load_all,
    load_run,
    write_samples,
)

__all__ = [
    "connect",
    "database",
    "forget",
    "ingest",
    "query",
    "rebuild",
    "record_models",
    "sync",
    "write_samples",
]

_READING = ("SELECT", "EXPLAIN", "PRAGMA", "MULTI")
"""Kinds of statements that `bench sql` passes on; a PIVOT is a MULTI."""


def query(
    home: str | Path, sql: str, parameters: Sequence[object] = (), say: Say = warn
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of one reading statement, after new and changed runs were taken in.

    Raises UsageError for a statement that writes, reaches outside the history or is wrong.
    """
    home = Path(home)
    _require_reading(sql)
    try:
        sync(home, say)
    except StoreError as error:
        if not database(home).exists():
            raise
        # A history that one may only read is still worth reading.
        say(f"the history could not be brought up to date: {error.message}")
    return with_database(home, True, lambda db: _fetch(db, sql, parameters), say)


def ingest(home: str | Path, run_id: str, say: Say = warn) -> None:
    """Take one run folder into the history, in place of what the history has of it.

    Raises StoreError where a file of the run, or the history, cannot be read or written.
    """
    home = Path(home)
    folder = runs.folder_of(home, run_id)
    try:
        with_database(home, False, lambda db: load_run(db, folder), say)
    except FileNotFoundError:
        hint = "`bench runs list` shows all runs"
        raise StoreError(f"the run folder `{folder}` has no manifest", hint) from None


def sync(home: str | Path, say: Say = warn) -> list[str]:
    """Take in every run whose folder is newer than the history; their ids.

    A folder that cannot be read is named to `say` and passed over; one that is gone keeps its rows.
    """
    home = Path(home)
    folders = runs.run_folders(home)
    if not folders:
        return []
    if not database(home).exists():
        return rebuild(home, say)
    known = with_database(home, True, _stamps, say)
    stale = [folder for folder in folders if is_stale(folder, known.get(folder.name))]
    if not stale:
        return []
    return with_database(home, False, lambda db: load_all(db, stale, say), say)


def forget(home: str | Path, run_id: str, say: Say = warn) -> None:
    """Remove the rows of a run. Its folder, where it still exists, would bring them back."""

    def delete(db: Connection) -> None:
        db.begin()
        delete_run(db, run_id)
        db.commit()

    with_database(Path(home), False, delete, say)


def record_models(
    home: str | Path, rows: Iterable[Mapping[str, str | None]], say: Say = warn
) -> None:
    """Bring registry entries into table `models`: name, path, revision, parent, run_id, note.

    Writes only where something changed, so that a command may call it each time.
    """
    home = Path(home)
    wanted = {tuple(row.get(column) for column in MODEL_COLUMNS) for row in rows}
    changed = wanted - set(with_database(home, True, read_models, say))
    if changed:
        with_database(home, False, lambda db: replace_models(db, changed), say)


def _stamps(db: Connection) -> dict[str, tuple[int, str]]:
    rows = db.execute("SELECT run_id, stamp, status FROM ingested JOIN runs USING (run_id)")
    return {run_id: (stamp, status) for run_id, stamp, status in rows.fetchall()}


def _require_reading(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise _refused(error) from error
    kinds = [statement.type.name for statement in statements]
    if len(kinds) != 1:
        raise UsageError(
            f"`bench sql` takes one statement, not {len(kinds)}",
            'for example `bench sql "SELECT * FROM leaderboard"`',
        )
    if kinds[0] not in _READING:
        raise UsageError(
            f"`bench sql` only reads: a statement of kind `{kinds[0]}` is refused",
            "the history changes through run folders: `bench runs --help`",
        )


def _fetch(
    db: Connection, sql: str, parameters: Sequence[object]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    try:
        cursor = db.execute(sql, list(parameters))
        return [column[0] for column in cursor.description or ()], cursor.fetchall()
    except duckdb.PermissionException as error:
        raise UsageError(
            f"the query reaches outside the history: {first_line(error)}",
            'only tables and views of the history can be read: `bench sql "SHOW TABLES"`',
        ) from error
    except duckdb.Error as error:
        if is_damage(error):
            raise
        raise _refused(error) from error


def _refused(error: duckdb.Error) -> UsageError:
    """DuckDB's first line is what is wrong; what follows up to the statement is its advice."""
    text, _, advice = str(error).partition("\n")
    advice = " ".join(advice.split("LINE 1:")[0].split())
    return UsageError(
        f"the query cannot be run: {text.strip()}",
        advice or 'the tables are listed by `bench sql "SHOW TABLES"`',
    )
