"""Datasets: where the rows of a split are, and the rows.

A dataset is looked for in the data root (a folder laid out like the hub, <root>/<org>/<name>/),
on disk, in the local hub cache and on the hub, in that order; the first that has it decides.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from harness.errors import DataError
from harness.layout import split_files
from harness.rows import SUFFIXES, data_suffix, files_digest, read_rows
from harness.task import Row
from harness.types import Dataset

PACKAGED = "tunebench:"


class DatasetNotFoundError(DataError):
    """None of the places that were looked in has the dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The rows of one split, in the order of their files.

    revision: the hub commit, or `sha256:` with 12 hex digits over the bytes of the files that were
    read. source: the place that had them. files: with the number of rows of each.
    """

    rows: list[Row]
    revision: str
    source: str
    files: tuple[tuple[Path, int], ...]

    def where(self, index: int) -> str:
        """Which file, and which row of it counted from 1, holds row `index`."""
        for path, count in self.files:
            if index < count:
                return f"row {index + 1} of `{path}`"
            index -= count
        raise IndexError(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    source: str
    paths: list[Path]
    commit: str | None = None


def load(dataset: Dataset, columns: Sequence[str] = (), *, data_root: Path | None = None) -> Loaded:
    """The rows of the dataset's split.

    Raises DatasetNotFoundError where no place has the dataset, DataError for an unknown config or
    split, a torn or empty file, and a row without one of `columns`.
    """
    found = _find(dataset, data_root)
    rows: list[Row] = []
    files = []
    for path in found.paths:
        some = _of_split(read_rows(path), dataset)
        rows += some
        files.append((path, len(some)))
    loaded = Loaded(
        rows=rows,
        revision=found.commit or files_digest(found.paths),
        source=found.source,
        files=tuple(files),
    )
    _check(dataset, loaded, columns)
    return loaded


def packaged(dataset: Dataset, file: str) -> Dataset:
    """The same split of a file under tasks/samples/; a dataset that is such a file stays itself,
    and so does one that has none."""
    if not file or dataset.path.startswith(PACKAGED):
        return dataset
    return dataclasses.replace(dataset, path=PACKAGED + file, revision=None)


def text(row: Row, column: str) -> str:
    """The text in a column. Raises DataError where there is none, without saying which row."""
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"column `{column}` should hold text, but is {value!r}")
    return value


def choice_texts(values: object, n: int) -> tuple[str, ...]:
    """The n choices of a question. Raises DataError for another number, or for no texts."""
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise DataError(f"the choices should be a list of {n} texts, but are {values!r}")
    if len(values) != n:
        raise DataError(f"there should be {n} choices, but there are {len(values)}")
    return tuple(values)


def gold_index(value: object, n: int) -> int:
    """The place of the right choice, from 0. Raises DataError where it is not one of n."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n:
        raise DataError(f"the right choice should be one of 0 to {n - 1}, but is {value!r}")
    return value


def _of_split(rows: list[Row], dataset: Dataset) -> list[Row]:
    """Packaged files may hold several splits: a row with the field `split` belongs to that one."""
    if not dataset.path.startswith(PACKAGED):
        return rows
    return [
        {name: value for name, value in row.items() if name != "split"}
        for row in rows
        if row.get("split", dataset.split) == dataset.split
    ]


def _check(dataset: Dataset, loaded: Loaded, columns: Sequence[str]) -> None:
    if not loaded.rows:
        paths = ", ".join(f"`{path}`" for path, _ in loaded.files)
        raise DataError(
            f"split `{dataset.split}` of `{dataset.path}` has no rows in {paths}",
            "fetch the file again, or name another split",
        )
    for index, row in enumerate(loaded.rows):
        missing = next((column for column in columns if column not in row), None)
        if missing is not None:
            raise DataError(
                f"{loaded.where(index)} has no column `{missing}`", f"it has: {', '.join(row)}"
            )


def _find(dataset: Dataset, data_root: Path | None) -> _Found:
    if dataset.path.startswith(PACKAGED):
        return _Found(source="packaged", paths=[_packaged_file(dataset)])
    if data_root and not data_root.is_dir():
        raise DataError(f"the data root `{data_root}` is not a folder", "give another --data-root")
    if data_root and (folder := data_root / dataset.path).is_dir():
        return _Found(source=f"data root {data_root}", paths=_in_folder(dataset, folder))
    local = Path(dataset.path).expanduser()
    if local.is_file():
        return _Found(source="local file", paths=[_data_file(local)])
    if local.is_dir():
        return _Found(source="local folder", paths=_in_folder(dataset, local))
    if data_suffix(dataset.path) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset.path):
        raise DatasetNotFoundError(
            f"there is no file or folder `{dataset.path}`", "check the path for a slip"
        )
    return _in_cache_or_hub(dataset, data_root)


def _packaged_file(dataset: Dataset) -> Path:
    name = dataset.path.removeprefix(PACKAGED)
    path = Path(str(resources.files("tasks") / "samples" / name))
    if not path.is_file():
        raise DatasetNotFoundError(
            f"there is no packaged file `{name}`", f"it should be {path}: install the package again"
        )
    return path


def _data_file(path: Path) -> Path:
    if not data_suffix(path.name):
        raise DataError(
            f"`{path}` is not in a format that can be read", f"there are: {', '.join(SUFFIXES)}"
        )
    return path


def _in_folder(dataset: Dataset, root: Path) -> list[Path]:
    # os.walk, since Path.rglob does not follow the links of a cache or a mirror in Python 3.11.
    names = sorted(
        Path(folder, name).relative_to(root).as_posix()
        for folder, _, files in os.walk(root, followlinks=True)
        for name in files
    )
    readme = root / "README.md"
    header = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    return [root / name for name in split_files(dataset, names, header, f"`{root}`")]


def _in_cache_or_hub(dataset: Dataset, data_root: Path | None) -> _Found:
    from huggingface_hub import constants

    looked = [f"`{data_root}` has no `{dataset.path}`" if data_root else "no data root was given"]
    snapshot = _cached_snapshot(dataset)
    if snapshot is None:
        looked.append(f"the hub cache `{constants.HF_HUB_CACHE}` does not have it")
    else:
        try:
            paths = _in_folder(dataset, snapshot)
            return _Found(source="hub cache", paths=paths, commit=snapshot.name)
        except DataError as error:
            # Files come into the cache one by one, so what is missing may still be on the hub.
            looked.append(f"the hub cache does not have all of it ({error.message})")
    return _from_hub(dataset, looked)


def _cached_snapshot(dataset: Dataset) -> Path | None:
    """The folder of the wanted revision in the local hub cache, where there is one."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=dataset.path, repo_type="dataset")
    repository = Path(constants.HF_HUB_CACHE) / folder
    revision = dataset.revision or "main"
    reference = repository / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _from_hub(dataset: Dataset, looked: list[str]) -> _Found:
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    def fetch(name: str) -> Path:
        # By branch, not by commit: only so the cache notes which commit `main` was.
        revision = dataset.revision or "main"
        return Path(hf_hub_download(dataset.path, name, repo_type="dataset", revision=revision))

    try:
        info = HfApi().dataset_info(dataset.path, revision=dataset.revision)
        names = [file.rfilename for file in info.siblings or ()]
        header = fetch("README.md").read_text(encoding="utf-8") if "README.md" in names else ""
        chosen = split_files(dataset, names, header, "the hub's repository")
        return _Found(source="hub", paths=[fetch(name) for name in chosen], commit=info.sha)
    except HfHubHTTPError as error:
        looked.append(f"the hub answered: {str(error).strip().splitlines()[-1]}")
    except OfflineModeIsEnabled:
        looked.append("the hub is switched off by HF_HUB_OFFLINE")
    except (httpx.HTTPError, OSError) as error:
        looked.append(f"the hub could not be reached ({type(error).__name__})")
    raise DatasetNotFoundError(
        f"dataset `{dataset.path}` was not found: {'; '.join(looked)}",
        f"give `--data-root DIR` (or BENCH_DATA_ROOT), where DIR/{dataset.path} holds the files",
    )
