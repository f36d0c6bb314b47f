"""Which files of a dataset repository hold a split: its README's YAML header, else conventions.

Works on names alone, so that a folder and a listing of the hub are read by the same rules
(https://huggingface.co/docs/hub/datasets-data-files-configuration).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from harness.errors import DataError, did_you_mean
from harness.rows import SUFFIXES, data_suffix
from harness.types import Dataset

_ALIASES = (
    ("train", "training"),
    ("test", "testing", "eval", "evaluation"),
    ("validation", "valid", "val", "dev"),
)
_KEYWORDS = {word for words in _ALIASES for word in words}
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "config.json", "state.json"}
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\b")


def split_files(dataset: Dataset, names: Sequence[str], readme: str, where: str) -> list[str]:
    """The names of the files of the split, in their order.

    names: relative to the repository, with `/`. where: the place, for messages. Raises DataError
    for an unknown config or split (it names those there are) and for missing files.
    """
    each = (replace(dataset, config=config) for config in dataset.config.split("+"))
    return [name for one in each for name in _config_files(one, names, readme, where)]


def _config_files(dataset: Dataset, names: Sequence[str], readme: str, where: str) -> list[str]:
    configs = _declared_configs(readme, where)
    if not configs:
        return _whole(_by_convention(dataset, _data_names(names), where), where)
    config = _pick_config(configs, dataset, where)
    patterns = _declared_splits(config, where)
    folder = str(config.get("data_dir") or ".").strip("/")
    if not patterns:
        inside = [name for name in _data_names(names) if _is_under(name, folder)]
        return _whole(_of_split(dataset, inside, where), where)
    if dataset.split not in patterns:
        raise _unknown_split(dataset, patterns, where)
    prefix = "" if folder == "." else folder + "/"
    found = (_expand(prefix + pattern, names, where) for pattern in patterns[dataset.split])
    return _whole(list(dict.fromkeys(name for some in found for name in some)), where)


def _declared_configs(readme: str, where: str) -> list[dict[str, Any]]:
    import yaml

    header = re.match(r"---\s*\n(.*?\n)---\s*(?:\n|\Z)", readme, re.DOTALL)
    try:
        parsed = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError as error:
        raise DataError(
            f"the YAML header of README.md in {where} cannot be read: {str(error).splitlines()[0]}",
            "correct it, or take the README.md away: the file names will then decide",
        ) from None
    configs = parsed.get("configs") if isinstance(parsed, dict) else None
    if not isinstance(configs, list):
        return []
    return [config for config in configs if isinstance(config, dict) and "config_name" in config]


def _pick_config(configs: list[dict[str, Any]], dataset: Dataset, where: str) -> dict[str, Any]:
    by_name = {str(config["config_name"]): config for config in configs}
    if dataset.config in by_name:
        return by_name[dataset.config]
    if dataset.config == "default":
        marked = [config for config in configs if config.get("default")]
        if len(marked or configs) == 1:
            return (marked or configs)[0]
    raise _unknown_config(dataset, by_name, where)


def _declared_splits(config: dict[str, Any], where: str) -> dict[str, list[str]]:
    """Patterns by split; patterns without a split are those of `train`, as on the hub."""
    files = config.get("data_files")
    if files is None:
        return {}
    if isinstance(files, dict):
        return {str(split): _as_list(paths) for split, paths in files.items()}
    entries = _as_list(files)
    if all(isinstance(entry, str) for entry in entries):
        return {"train": entries}
    if all(isinstance(entry, dict) and "path" in entry for entry in entries):
        return {str(e.get("split", "train")): _as_list(e["path"]) for e in entries}
    raise DataError(
        f"`data_files` of config `{config['config_name']}` in README.md of {where} is not a list "
        "of split and path",
        "write it as `- split: test` with `path: data/test-*` under it",
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _expand(pattern: str, names: Sequence[str], where: str) -> list[str]:
    matcher = re.compile(_glob_regex(str(PurePosixPath(pattern))))
    found = sorted(name for name in names if matcher.fullmatch(name) and data_suffix(name))
    if not found:
        raise DataError(
            f"`{pattern}`, which README.md names, is not in {where}",
            "fetch the file, or correct README.md",
        )
    return found


def _glob_regex(pattern: str) -> str:
    """`*` and `?` stay within a folder, `**` does not.

    >>> [bool(re.fullmatch(_glob_regex("a/**/t-*"), n)) for n in ("a/t-1", "a/b/c/t-1", "a/t-1/x")]
    [True, True, False]
    """
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", pattern)
    return "".join(
        wildcards.get(part) or (part.replace("[!", "[^") if part[:1] == "[" else re.escape(part))
        for part in parts
    )


def _data_names(names: Iterable[str]) -> list[str]:
    return sorted(
        name
        for name in names
        if data_suffix(name)
        and PurePosixPath(name).name not in _NOT_DATA
        and not any(part[0] in "._" for part in PurePosixPath(name).parts)
    )


def _is_under(name: str, folder: str) -> bool:
    return folder == "." or name.startswith(folder + "/")


def _by_convention(dataset: Dataset, names: list[str], where: str) -> list[str]:
    """`…/<config>/<split>-*`, `data/<split>-*`, `<split>.jsonl`."""
    if dataset.config != "default":
        folders = {part for name in names for part in PurePosixPath(name).parent.parts}
        if dataset.config not in folders:
            raise _unknown_config(dataset, folders - _KEYWORDS - {"data"}, where)
        names = [name for name in names if dataset.config in PurePosixPath(name).parent.parts]
    found = _of_split(dataset, names, where)
    parents = {str(PurePosixPath(name).parent) for name in found}
    if dataset.config == "default" and len(parents) > 1:
        raise DataError(
            f"split `{dataset.split}` in {where} lies in several folders: "
            f"{', '.join(sorted(parents)[:5])}",
            "name one as the config, or add a README.md with a YAML header",
        )
    return found


def _of_split(dataset: Dataset, names: list[str], where: str) -> list[str]:
    splits: dict[str, list[str]] = {}
    for name in names:
        splits.setdefault(_split_in(name), []).append(name)
    if len(names) == 1 and _KEYWORDS.isdisjoint(splits):
        splits["train"] = names
    same = next((words for words in _ALIASES if dataset.split in words), ())
    for word in (dataset.split, *same):
        if word in splits:
            return _one_format(splits[word])
    raise _unknown_split(dataset, splits, where)


def _split_in(name: str) -> str:
    """The split that a file name speaks of: a keyword in it, or in the nearest folder, else its
    stem.

    >>> [_split_in(n) for n in ("main/test-00000-of-00001.parquet", "dev/a.csv", "unsafe.jsonl")]
    ['test', 'dev', 'unsafe']
    """
    path = PurePosixPath(name)
    stem = path.name.split(".")[0]
    for part in (stem, *reversed(path.parent.parts)):
        for word in re.split(r"[-_ \d]+", part):
            if word in _KEYWORDS:
                return word
    shard = _SHARD.match(stem)
    return shard[1] if shard else stem


def _one_format(names: list[str]) -> list[str]:
    """The same rows are often there in several formats."""
    best = min((data_suffix(name) for name in names), key=SUFFIXES.index)
    return [name for name in names if data_suffix(name) == best]


def _whole(names: list[str], where: str) -> list[str]:
    """The names, once it is sure that no shard is missing."""
    seen: dict[tuple[str, str], int] = {}
    for name in names:
        if shard := _SHARD.match(name):
            seen[shard[1], shard[3]] = seen.get((shard[1], shard[3]), 0) + 1
    for (stem, total), count in seen.items():
        if count != int(total):
            raise DataError(
                f"{count} of the {int(total)} files `{stem}-*` are in {where}", "fetch the others"
            )
    return names


def _unknown_config(dataset: Dataset, known: Iterable[str], where: str) -> DataError:
    listed = ", ".join(f"`{name}`" for name in sorted(known)) or "no configs"
    return DataError(
        f"`{dataset.path}` has no config `{dataset.config}` in {where}",
        did_you_mean(dataset.config, known, f"there are: {listed}"),
    )


def _unknown_split(dataset: Dataset, known: Iterable[str], where: str) -> DataError:
    listed = ", ".join(f"`{name}`" for name in sorted(known)) or "no data files"
    return DataError(
        f"`{dataset.path}` has no split `{dataset.split}` in {where}, only {listed}",
        did_you_mean(dataset.split, known, "name one of them, or fetch the files of that split"),
    )
