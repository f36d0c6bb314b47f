"""Between run folders and tables: writes samples.parquet, loads a folder into an open database.

Rows travel as files in both directions (`COPY`, `read_parquet`, `read_json`), never one by one
through Python, and with little memory: the command line must stay small during a large run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import duckdb

from harness import runs
from harness.errors import StoreError
from harness.json_lines import written_line
from harness.trainer import OVERLAP, STEPS
from harness.types import JSON, Run

Connection = duckdb.DuckDBPyConnection
Say = Callable[[str], object]

SAMPLE_COLUMNS = {
    "sample_id": "VARCHAR",
    "sample_index": "INTEGER",
    "group_name": "VARCHAR",
    "prompt": "VARCHAR",
    "output": "VARCHAR",
    "target": "VARCHAR",
    "answer": "VARCHAR",
    "score": "DOUBLE",
    "parsed": "BOOLEAN",
    "truncated": "BOOLEAN",
    "finish_reason": "VARCHAR",
    "prompt_tokens": "INTEGER",
    "completion_tokens": "INTEGER",
    "choice_logprobs": "DOUBLE[]",
    "grader": "VARCHAR",
    "explanation": "VARCHAR",
}
GRADE_COLUMNS = {
    "sample_id": "VARCHAR",
    "sample_index": "INTEGER",
    "grader": "VARCHAR",
    "version": "INTEGER",
    "metric": "VARCHAR",
    "score": "DOUBLE",
    "answer": "VARCHAR",
    "parsed": "BOOLEAN",
    "explanation": "VARCHAR",
}
_MEASURE_COLUMNS = {
    "metric": "VARCHAR",
    "group": "VARCHAR",
    "value": "DOUBLE",
    "stderr": "DOUBLE",
    "ci_low": "DOUBLE",
    "ci_high": "DOUBLE",
    "n": "INTEGER",
}
_STEP_COLUMNS = {"step": "BIGINT", "epoch": "DOUBLE", "metric": "VARCHAR", "value": "DOUBLE"}

_OVERLAP_COLUMNS = {
    "task": "VARCHAR",
    "sample_id": "VARCHAR",
    "kind": "VARCHAR",
    "share": "DOUBLE",
    "example": "BIGINT",
}

_TRIAL_COLUMNS = {
    "trial": "INTEGER",
    "state": "VARCHAR",
    "params": "JSON",
    "value": "DOUBLE",
    "last_step": "BIGINT",
    "child_run_id": "VARCHAR",
    "cause": "VARCHAR",
    "error": "VARCHAR",
    "best_step": "BIGINT",
    "correct": "INTEGER",
    "wrong": "INTEGER",
    "format_failure": "INTEGER",
    "seconds": "DOUBLE",
    "training_start_s": "DOUBLE",
    "engine_start_s": "DOUBLE",
}

TRIALS = "trials.jsonl"

_DECISION_COLUMNS = {
    "rung": "INTEGER",
    "name": "VARCHAR",
    "criterion": "VARCHAR",
    "holds": "BOOLEAN",
    "evidence": "JSON",
    "decision": "VARCHAR",
    "decided_by": "VARCHAR",
    "decided_at": "VARCHAR",
    "hours": "DOUBLE",
    "usd": "DOUBLE",
    "next_rung": "VARCHAR",
    "next_hours": "DOUBLE",
    "next_usd": "DOUBLE",
    "run_ids": "VARCHAR[]",
}

TABLES_OF_RUNS = (
    *("runs", "measures", "samples", "grades", "steps", "trials", "overlap", "decisions"),
    *("ingested",),
)

GRADES = "grades.parquet"
DECISIONS = "decisions.json"

# One thread and small row groups: 14,000 samples need about 130 MB this way, 200 MB otherwise,
# and are written no slower.
Config = dict[str, str | bool | int | float | list[str]]
ONE_THREAD: Config = {"threads": 1}
# Without vacuum tasks a checkpoint does not merge the rows of many runs into larger groups, which
# would make every eighth run of 14,000 samples take seconds instead of a third of one.
LOADING: Config = {**ONE_THREAD, "memory_limit": "100MB", "max_vacuum_tasks": 0}
_ROW_GROUP_ROWS = 2048
_ROW_GROUP_BYTES = 1 << 24
_BUFFER_BYTES = 1 << 20


def write_samples(folder: Path, rows: Iterable[JSON]) -> None:
    """samples.parquet from rows with the keys of SAMPLE_COLUMNS, each file whole or not at all.

    A row may have "grades", a list of grades by further graders with the keys of GRADE_COLUMNS
    (without the sample's own); then grades.parquet is written too. Rows are read once, one at a
    time. Lone surrogates become `?`: no file format carries them.
    Raises StoreError where the disk is full or the folder cannot be written.
    """
    drafts = folder / ".samples.jsonl", folder / ".grades.jsonl"
    try:
        with runs.writing(folder):
            with (
                drafts[0].open("wb", buffering=_BUFFER_BYTES) as samples,
                drafts[1].open("wb", buffering=_BUFFER_BYTES) as grades,
            ):
                longest = _write_lines(rows, samples, grades)
            source = from_lines(drafts[0], SAMPLE_COLUMNS, longest)
            to_parquet(f"SELECT * FROM {source}", folder / runs.SAMPLES, longest)
            if drafts[1].stat().st_size:
                source = from_lines(drafts[1], GRADE_COLUMNS, longest)
                to_parquet(f"SELECT * FROM {source}", folder / GRADES, longest)
            else:
                (folder / GRADES).unlink(missing_ok=True)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def _write_lines(rows: Iterable[JSON], samples: BinaryIO, grades: BinaryIO) -> int:
    """Length in bytes of the longest line."""
    longest = 0
    for row in rows:
        longest = max(longest, write_line(samples, row, SAMPLE_COLUMNS))
        for grade in row.get("grades", ()):
            longest = max(longest, write_line(grades, {**row, **grade}, GRADE_COLUMNS))
    return longest


def write_line(file: BinaryIO, row: JSON, columns: dict[str, str]) -> int:
    """Append a row as JSON; its length in bytes."""
    return file.write(written_line({name: row[name] for name in columns}))


def from_lines(lines: Path, columns: dict[str, str], longest: int) -> str:
    """What to select from for the rows of a file of `write_line`."""
    return _read_json(lines, columns, "newline_delimited", longest=max(longest, 1 << 20))


def to_parquet(query: str, target: Path, longest: int) -> None:
    """Replace `target` by the rows of a query; longest: bytes of the longest row, about."""
    draft = target.with_name(f".{target.name}")
    group = max(1, min(_ROW_GROUP_ROWS, _ROW_GROUP_BYTES // max(longest, 1)))
    config: Config = {**ONE_THREAD, "temp_directory": str(target.parent / ".spill")}
    try:
        with duckdb.connect(config=config) as db:
            db.execute(
                f"COPY ({query}) TO {quoted(draft)} "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {group})"
            )
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    except duckdb.Error as error:
        raise store_error(error, target) from error
    finally:
        draft.unlink(missing_ok=True)


def _read_json(
    path: Path,
    columns: dict[str, str],
    form: str,
    *,
    longest: int = 1 << 24,
    skip_torn: bool = False,
) -> str:
    fields = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in columns.items())
    return (
        f"read_json({quoted(path)}, format = '{form}', columns = {{{fields}}}, "
        f"maximum_object_size = {longest}, ignore_errors = {skip_torn})"
    )


def quoted(value: object) -> str:
    """As a string literal of SQL: a path in `COPY … TO` cannot be a parameter."""
    return "'" + str(value).replace("'", "''") + "'"


def store_error(error: duckdb.Error, path: Path) -> StoreError:
    """What a database error means to the user, who can make room or change rights."""
    text = first_line(error)
    if "No space left" in text or "quota" in text.lower():
        hint = "free some space and repeat the command; what was finished is kept"
        return StoreError(f"the disk is full: `{path}` could not be written", hint)
    if "Permission denied" in text or "Read-only file system" in text:
        hint = "set BENCH_HOME (or --home) to a folder that you may write to"
        return StoreError(f"`{path}` cannot be written: {text}", hint)
    hint = "run folders are untouched; `bench runs rebuild` makes the history anew from them"
    return StoreError(f"`{path}` could not be read or written: {text}", hint)


def first_line(error: Exception) -> str:
    """What DuckDB says, without its picture of the statement."""
    return str(error).split("\n", 1)[0].strip()


def stamp_of(folder: Path) -> int:
    """Modification time of the manifest in ns. Raises FileNotFoundError."""
    return (folder / runs.MANIFEST).stat().st_mtime_ns


def is_stale(folder: Path, known: tuple[int, str] | None) -> bool:
    """Whether a folder says more than the history, which knows a stamp and a status, or nothing."""
    try:
        stamp = stamp_of(folder)
    except FileNotFoundError:
        return False
    if known is None or known[0] != stamp:
        return True
    # A killed run never wrote that it ended: only its lock tells.
    return known[1] == "running" and not runs.is_locked(folder)


def load_all(db: Connection, folders: Iterable[Path], say: Say) -> list[str]:
    """The ids of the runs that could be loaded; the others are named to `say`.

    A run may vanish or be half copied at any moment, and must not hold up the others.
    """
    loaded = []
    for folder in folders:
        try:
            load_run(db, folder)
        except FileNotFoundError:
            continue
        except StoreError as error:
            say(f"left out of the history: {error.message}")
        except duckdb.Error as error:
            if not _is_of_one_run(error):
                raise
            say(f"left out of the history: `{folder}`: {first_line(error)}")
        else:
            loaded.append(folder.name)
    return loaded


def _is_of_one_run(error: duckdb.Error) -> bool:
    """Whether the files of the run are at fault, rather than the disk or the database."""
    kinds = (duckdb.DataError, duckdb.InvalidInputException, duckdb.BinderException)
    return isinstance(error, kinds) or ".parquet" in str(error) or ".json" in str(error)


def load_run(db: Connection, folder: Path) -> Run:
    """Replace what the database has of a run by what is in its folder, in one transaction.

    Raises FileNotFoundError where there is no manifest, StoreError where it is torn, and
    duckdb.Error where another file is.
    """
    # The stamp is taken first: a manifest that changes meanwhile is then read again next time.
    stamp = stamp_of(folder)
    run = dataclasses.replace(runs.read_manifest(folder), run_id=folder.name)
    try:
        _replace_rows(db, folder, run, stamp)
    except duckdb.OutOfMemoryException:
        # Answers of many megabytes: take the memory that they need after all.
        db.execute("RESET memory_limit")
        _replace_rows(db, folder, run, stamp)
    return run


def _replace_rows(db: Connection, folder: Path, run: Run, stamp: int) -> None:
    db.begin()
    try:
        delete_run(db, run.run_id)
        _insert_manifest(db, run)
        _insert_files(db, folder)
        db.execute("INSERT INTO ingested VALUES (?, ?)", [run.run_id, stamp])
        db.commit()
    except BaseException:
        # A full disk ends the transaction by itself; that error is the one to tell.
        with contextlib.suppress(duckdb.Error):
            db.rollback()
        raise


def delete_run(db: Connection, run_id: str) -> None:
    for table in TABLES_OF_RUNS:
        db.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])


def _insert_manifest(db: Connection, run: Run) -> None:
    names = [field.name for field in dataclasses.fields(Run)]
    marks = ", ".join("?" for _ in names)
    values = [_column(name, getattr(run, name)) for name in names]
    db.execute(f"INSERT INTO runs ({', '.join(names)}) VALUES ({marks})", values)


def _column(name: str, value: object) -> object:
    if name == "flags":
        return list(value) if isinstance(value, tuple) else value
    if isinstance(value, dict | tuple):
        return json.dumps(value)
    return value if value != "" or not name.endswith("_at") else None


def _insert_files(db: Connection, folder: Path) -> None:
    run_id = quoted(folder.name)
    if (folder / runs.SAMPLES).exists():
        source = f"read_parquet({quoted(folder / runs.SAMPLES)})"
        names = ", ".join(SAMPLE_COLUMNS)
        db.execute(f"INSERT INTO samples SELECT {run_id}, {names} FROM {source}")
    if (folder / GRADES).exists():
        source = f"read_parquet({quoted(folder / GRADES)})"
        names = ", ".join(GRADE_COLUMNS)
        db.execute(f"INSERT INTO grades SELECT {run_id}, {names} FROM {source}")
    if (folder / runs.MEASURES).exists():
        source = _read_json(folder / runs.MEASURES, _MEASURE_COLUMNS, "array")
        names = """metric, coalesce("group", ''), value, stderr, ci_low, ci_high, n"""
        db.execute(f"INSERT INTO measures SELECT {run_id}, {names} FROM {source}")
    if (folder / STEPS).exists():
        # A killed training leaves a torn last line.
        source = _read_json(folder / STEPS, _STEP_COLUMNS, "newline_delimited", skip_torn=True)
        names = ", ".join(_STEP_COLUMNS)
        db.execute(
            f"INSERT INTO steps SELECT {run_id}, {names} FROM {source} WHERE metric IS NOT NULL"
        )
    if (folder / TRIALS).exists():
        source = _read_json(folder / TRIALS, _TRIAL_COLUMNS, "newline_delimited")
        names = ", ".join(_TRIAL_COLUMNS)
        db.execute(f"INSERT INTO trials SELECT {run_id}, {names} FROM {source}")
    if (folder / OVERLAP).exists():
        source = _read_json(folder / OVERLAP, _OVERLAP_COLUMNS, "newline_delimited")
        names = ", ".join(_OVERLAP_COLUMNS)
        db.execute(f"INSERT INTO overlap SELECT {run_id}, {names} FROM {source}")
    if (folder / DECISIONS).exists():
        source = _read_json(folder / DECISIONS, _DECISION_COLUMNS, "array")
        names = ", ".join(_DECISION_COLUMNS)
        db.execute(f"INSERT INTO decisions SELECT {run_id}, {names} FROM {source}")
