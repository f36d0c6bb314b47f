"""Rows out of data files: parquet, JSON, JSON lines and CSV, the text ones also gzipped."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from harness.errors import DataError
from harness.task import Row

_FETCH_AGAIN = "fetch the file again: it may have been cut off, or it is of another format"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def data_suffix(name: str) -> str:
    """The format of a file as its suffix without `.gz`, '' where it is not a data file.

    >>> data_suffix("main/test-00000-of-00001.parquet"), data_suffix("a.jsonl.gz"), data_suffix("x")
    ('.parquet', '.jsonl', '')
    """
    suffix = Path(name.removesuffix(".gz")).suffix
    zipped_parquet = name.endswith(".parquet.gz")
    return suffix if suffix in _READERS and not zipped_parquet else ""


def read_rows(path: Path) -> list[Row]:
    """All rows of one file, in its order.

    Raises DataError, naming the file and, where it can, the line, for a torn or foreign file.
    """
    try:
        if _starts_with(path, _LFS_POINTER):
            raise DataError(
                f"`{path}` is a Git LFS pointer, not the data", "fetch it with `git lfs pull`"
            )
        return _READERS[data_suffix(path.name)](path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"`{path}` cannot be read: {error}", _FETCH_AGAIN) from None


def files_digest(paths: Sequence[Path]) -> str:
    """`sha256:` and 12 hex digits over the bytes of the files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()[:12]}"


def _starts_with(path: Path, prefix: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(prefix)) == prefix


def _read_parquet(path: Path) -> list[Row]:
    import duckdb

    query = "SELECT * FROM read_parquet(?, hive_partitioning = false)"
    with duckdb.connect(config={"threads": 1}) as connection:
        try:
            cursor = connection.execute(query, [str(path)])
            values = cursor.fetchall()
        except duckdb.Error as error:
            raise DataError(
                f"`{path}` cannot be read as parquet: {str(error).splitlines()[0]}",
                _FETCH_AGAIN,
            ) from None
        names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in values]


def _read_json(path: Path) -> list[Row]:
    """An array of objects; where the file does not start with one, JSON lines."""
    with _open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        return list(_json_lines(path, text.split("\n")))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise _torn_json(path, error.lineno, error) from None
    return [_object(row, f"item {i} of `{path}`") for i, row in enumerate(rows, 1)]


def _read_json_lines(path: Path) -> list[Row]:
    with _open_text(path) as file:
        return list(_json_lines(path, file))


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _torn_json(path, number, error) from None
        yield _object(row, f"line {number} of `{path}`")


def _torn_json(path: Path, line: int, error: json.JSONDecodeError) -> DataError:
    return DataError(
        f"line {line} of `{path}` is not valid JSON: {error.msg}",
        _FETCH_AGAIN,
    )


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object", "each row must be an object: {…}")
    return value


def _read_csv(path: Path) -> list[Row]:
    with _open_text(path) as file:
        return list(_csv_rows(path, file))


def _csv_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            # DictReader files surplus fields under None and fills missing ones with None.
            if None in row or None in row.values():
                raise DataError(
                    f"line {reader.line_num} of `{path}` does not have the header's "
                    f"{len(reader.fieldnames or ())} fields",
                    "quote fields that hold commas or line breaks",
                )
            yield row
    except csv.Error as error:
        raise DataError(
            f"`{path}` is not valid CSV near line {reader.line_num}: {error}",
            "quote fields that hold commas or line breaks",
        ) from None


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
}

# The order is the preference where a split is there in several formats.
SUFFIXES = tuple(_READERS)
