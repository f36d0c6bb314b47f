from __future__ import annotations

import pytest

from harness.errors import DataError
from harness.layout import split_files
from harness.types import Dataset


def chosen(
    names: list[str], readme: str = "", config: str = "default", split: str = "test"
) -> list[str]:
    return split_files(Dataset(path="o/d", config=config, split=split), names, readme, "`here`")


def refused(
    names: list[str], readme: str = "", config: str = "default", split: str = "test"
) -> tuple[str, str]:
    with pytest.raises(DataError) as raised:
        chosen(names, readme, config, split)
    return raised.value.message, raised.value.hint


def header(*lines: str) -> str:
    return "\n".join(["---", *lines, "license: mit", "---", "# About"])


MAIN = header(
    "configs:",
    "- config_name: main",
    "  data_files:",
    "  - split: train",
    "    path: main/train-*",
    "  - split: test",
    "    path: main/test-*",
    "- config_name: other",
    "  data_files:",
    "  - split: test",
    "    path: [other/b.jsonl, other/a.jsonl]",
)
NAMES = [
    *("README.md", "main/test-00000-of-00001.parquet", "main/train-00000-of-00002.parquet"),
    *("main/train-00001-of-00002.parquet", "other/a.jsonl", "other/b.jsonl", "main/test-notes.md"),
]


def test_header_names_the_files_of_a_split() -> None:
    assert chosen(NAMES, MAIN, "main") == ["main/test-00000-of-00001.parquet"]
    assert chosen(NAMES, MAIN, "main", "train") == [
        "main/train-00000-of-00002.parquet",
        "main/train-00001-of-00002.parquet",
    ]


def test_configs_joined_by_plus_are_read_one_after_the_other() -> None:
    assert chosen(NAMES, MAIN, "other+main") == [
        *("other/b.jsonl", "other/a.jsonl"),
        "main/test-00000-of-00001.parquet",
    ]
    assert "no config `mian`" in refused(NAMES, MAIN, "other+mian")[0]


def test_list_of_paths_keeps_its_order() -> None:
    assert chosen(NAMES, MAIN, "other") == ["other/b.jsonl", "other/a.jsonl"]


@pytest.mark.parametrize(
    ("lines", "split"),
    [
        (("- config_name: x", "  data_files: data/t*.csv"), "train"),
        (("- config_name: x", "  data_files: [data/test.csv]"), "train"),
        (("- config_name: x", "  data_files: {dev: data/test.csv}"), "dev"),
        (("- config_name: x", "  data_files:", "  - {split: dev, path: ./data/test.csv}"), "dev"),
        (("- config_name: x", "  data_dir: data"), "test"),
        (("- config_name: x", "  data_dir: data", "  data_files: '*.csv'"), "train"),
        (("- config_name: x", "  data_files: '**/*.csv'"), "train"),
    ],
)
def test_every_form_of_data_files_is_read(lines: tuple[str, ...], split: str) -> None:
    readme = header("configs:", *lines)
    assert chosen(["data/test.csv", "README.md"], readme, "x", split) == ["data/test.csv"]


def test_default_config_is_the_marked_or_the_only_one() -> None:
    only = header("configs:", "- config_name: x", "  data_files: {test: a.csv}")
    assert chosen(["a.csv"], only) == ["a.csv"]
    marked = only.replace(
        "license", "- {config_name: y, default: true, data_files: {test: b.csv}}\nlicense"
    )
    assert chosen(["a.csv", "b.csv"], marked) == ["b.csv"]
    assert refused(NAMES, MAIN)[1] == "there are: `main`, `other`"


def test_unknown_config_names_the_nearest() -> None:
    message, hint = refused(NAMES, MAIN, "mian")
    assert message == "`o/d` has no config `mian` in `here`"
    assert hint == "did you mean `main`?"


def test_unknown_split_names_those_there_are() -> None:
    message, hint = refused(NAMES, MAIN, "main", "tset")
    assert message == "`o/d` has no split `tset` in `here`, only `test`, `train`"
    assert hint == "did you mean `test`?"


def test_named_file_that_is_missing_is_refused() -> None:
    message, _ = refused(["README.md"], MAIN, "main")
    assert message == "`main/test-*`, which README.md names, is not in `here`"


@pytest.mark.parametrize("readme", ["", MAIN])
def test_missing_shard_is_refused(readme: str) -> None:
    names = [name for name in NAMES if "00001-of-00002" not in name]
    message, _ = refused(names, readme, "main", "train")
    assert message == "1 of the 2 files `main/train-*` are in `here`"


def test_header_that_is_no_yaml_is_refused() -> None:
    assert "cannot be read" in refused(NAMES, "---\nconfigs: [\n---\n")[0]


def test_data_files_of_another_form_are_refused() -> None:
    readme = header("configs:", "- config_name: x", "  data_files: [{split: test}]")
    assert "`data_files` of config `x`" in refused(["a.csv"], readme, "x")[0]


@pytest.mark.parametrize("readme", ["", "# About\n---\nconfigs: 7\n---\n", header("configs: 7")])
def test_without_configs_the_names_decide(readme: str) -> None:
    assert chosen(NAMES[:4], readme, "main") == ["main/test-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("names", "config", "split", "expected"),
    [
        (["test.jsonl", "train.jsonl"], "default", "test", ["test.jsonl"]),
        (
            ["data/test-00000-of-00001.parquet"],
            "default",
            "test",
            ["data/test-00000-of-00001.parquet"],
        ),
        (
            ["test/a.csv", "test/b.csv", "train/a.csv"],
            "default",
            "test",
            ["test/a.csv", "test/b.csv"],
        ),
        (["x_dev.json", "x_train.json"], "default", "validation", ["x_dev.json"]),
        (["val.csv", "dev.csv"], "default", "dev", ["dev.csv"]),
        (["safe.parquet", "unsafe.parquet"], "default", "unsafe", ["unsafe.parquet"]),
        (["facts.jsonl"], "default", "train", ["facts.jsonl"]),
        (["facts-00000-of-00001.parquet"], "default", "facts", ["facts-00000-of-00001.parquet"]),
        (["test.parquet", "test.jsonl", "test.csv"], "default", "test", ["test.parquet"]),
        (["en/test.csv", "de/test.csv"], "de", "test", ["de/test.csv"]),
        (["data/en/test.csv", "data/de/test.csv"], "de", "test", ["data/de/test.csv"]),
        (["test.csv", ".cache/test.csv", "dataset_infos.json"], "default", "test", ["test.csv"]),
        (["contest.csv", "latest.csv", "test.csv"], "default", "test", ["test.csv"]),
    ],
)
def test_conventions_of_the_hub(
    names: list[str], config: str, split: str, expected: list[str]
) -> None:
    assert chosen(names, "", config, split) == expected


def test_split_in_several_folders_is_not_merged() -> None:
    message, hint = refused(["en/test.csv", "de/test.csv"])
    assert message == "split `test` in `here` lies in several folders: de, en"
    assert "config" in hint


def test_folder_without_data_is_refused() -> None:
    assert refused(["README.md"])[0] == "`o/d` has no split `test` in `here`, only no data files"


def test_config_without_folder_is_refused() -> None:
    message, hint = refused(["en/test.csv", "de/test.csv"], config="fr")
    assert message == "`o/d` has no config `fr` in `here`"
    assert hint == "there are: `de`, `en`"
