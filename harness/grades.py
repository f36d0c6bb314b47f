"""grades.parquet: grades of a run by other graders than its first, versions side by side.

A grader is known as `name@version`, as in column `grader` of the samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb

from harness.ingest import (
    GRADE_COLUMNS,
    GRADES,
    ONE_THREAD,
    from_lines,
    quoted,
    store_error,
    to_parquet,
    write_line,
)
from harness.runs import SAMPLES, writing
from harness.types import JSON

_KEPT = ".kept-grades.parquet"
_NAME = "grader || '@' || version"
_COLUMNS = ", ".join(GRADE_COLUMNS)


def add(folder: Path, rows: Iterable[JSON]) -> None:
    """Add rows with the keys of GRADE_COLUMNS, in place of those by the same grader and version."""
    draft = folder / ".grades.jsonl"
    try:
        with writing(folder):
            with draft.open("wb") as file:
                longest = max((write_line(file, row, GRADE_COLUMNS) for row in rows), default=0)
            source = from_lines(draft, GRADE_COLUMNS, longest)
            query = f"SELECT {_COLUMNS} FROM {source}"
            target = folder / GRADES
            if target.exists():
                older = f"SELECT {_COLUMNS} FROM read_parquet({quoted(target)})"
                replaced = f"SELECT DISTINCT {_NAME} FROM {source}"
                query = f"{older} WHERE {_NAME} NOT IN ({replaced}) UNION ALL {query}"
            to_parquet(query, target, longest)
    finally:
        draft.unlink(missing_ok=True)


def own_graders(folder: Path) -> dict[str, str]:
    """Metric → `name@version` of the graders that the run itself was scored with, but the first.

    Those added later have a metric that is called as they are.
    """
    return {metric: name for metric, name in _graders(folder) if metric != name}


def added_graders(folder: Path) -> set[str]:
    """`name@version` of the graders that were added later."""
    return {name for metric, name in _graders(folder) if metric == name}


def set_aside(folder: Path, first: str) -> None:
    """Keep all grades of a run that is about to be graded anew, but those by its `first` grader.

    What an attempt that was killed before `restore` had kept is kept again.
    """
    samples, own, kept = folder / SAMPLES, folder / GRADES, folder / _KEPT
    parts = []
    if samples.exists():
        parts.append(
            f"SELECT sample_id, sample_index, split_part(grader, '@', 1) AS grader, "
            f"CAST(split_part(grader, '@', 2) AS INTEGER) AS version, grader AS metric, "
            f"score, answer, parsed, explanation FROM read_parquet({quoted(samples)})"
        )
    if own.exists():
        source = f"read_parquet({quoted(own)})"
        parts.append(f"SELECT {_COLUMNS} FROM (SELECT * REPLACE ({_NAME} AS metric) FROM {source})")
    if kept.exists():
        parts.append(_missing_from(own, kept))
    if parts:
        everything = " UNION ALL ".join(parts)
        query = f"SELECT {_COLUMNS} FROM ({everything}) WHERE {_NAME} <> {quoted(first)}"
        to_parquet(query, kept, 0)


def restore(folder: Path) -> None:
    """Put what was set aside back beside the new grades, which win over those of their version."""
    kept = folder / _KEPT
    if not kept.exists():
        return
    target = folder / GRADES
    query = _missing_from(target, kept)
    if target.exists():
        query = f"SELECT {_COLUMNS} FROM read_parquet({quoted(target)}) UNION ALL {query}"
    to_parquet(query, target, 0)
    kept.unlink()


def _missing_from(newer: Path, older: Path) -> str:
    """The grades of one file by graders of which the other has none."""
    query = f"SELECT {_COLUMNS} FROM read_parquet({quoted(older)})"
    if not newer.exists():
        return query
    names = f"SELECT DISTINCT {_NAME} FROM read_parquet({quoted(newer)})"
    return f"{query} WHERE {_NAME} NOT IN ({names})"


def _graders(folder: Path) -> list[tuple[str, str]]:
    path = folder / GRADES
    if not path.exists():
        return []
    query = f"SELECT DISTINCT metric, {_NAME} AS name FROM read_parquet({quoted(path)}) ORDER BY 2"
    try:
        with duckdb.connect(config=ONE_THREAD) as db:
            found: list[Any] = db.execute(query).fetchall()
    except duckdb.Error as error:
        raise store_error(error, path) from error
    return [(metric, name) for metric, name in found]
