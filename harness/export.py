"""A run as one file to hand on: its whole folder, or its samples as a table."""

from __future__ import annotations

import tarfile
from pathlib import Path

import duckdb

from harness import runs
from harness.errors import StoreError, UsageError
from harness.ingest import ONE_THREAD, first_line, quoted

FORMATS = {"tar": ".tar.gz", "csv": ".csv", "parquet": ".parquet", "jsonl": ".jsonl"}
"""What can be written, and how such a file is called."""

_COPY_OPTIONS = {
    "csv": "FORMAT csv, HEADER",
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "jsonl": "FORMAT json",
}


def export(folder: Path, target: Path, form: str) -> None:
    """Write the run to `target`, whole or not at all.

    Raises UsageError where the target exists or the run has no samples yet.
    """
    if target.exists():
        raise UsageError(f"`{target}` exists", "name another file with `--output`")
    draft = target.with_name(f".{target.name}.draft")
    try:
        with runs.writing(target):
            if form == "tar":
                _write_tar(folder, draft)
            else:
                _write_samples(folder, draft, _COPY_OPTIONS[form])
            draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _write_tar(folder: Path, draft: Path) -> None:
    with tarfile.open(draft, "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            # Hidden files are locks and drafts, which mean nothing elsewhere.
            if not path.name.startswith("."):
                archive.add(path, f"{folder.name}/{path.name}")


def _write_samples(folder: Path, draft: Path, options: str) -> None:
    source = folder / runs.SAMPLES
    if not source.exists():
        raise UsageError(
            f"`{folder.name}` has no samples yet",
            f"finish it with `bench runs resume {folder.name}`, or export it as `tar`",
        )
    try:
        with duckdb.connect(config=ONE_THREAD) as db:
            db.execute(f"COPY (FROM {quoted(source)}) TO {quoted(draft)} ({options})")
    except duckdb.Error as error:
        hint = f"look at {source}, and whether there is room at {draft.parent}"
        raise StoreError(
            f"the samples of `{folder.name}` cannot be written: {first_line(error)}", hint
        ) from error
