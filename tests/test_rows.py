from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb
import pytest

from harness.errors import DataError
from harness.rows import data_suffix, files_digest, read_rows

ROWS = [{"question": "1+1?", "answer": 2}, {"question": "a, “b”\nc?", "answer": 3}]


def refused(path: Path) -> str:
    """The message and hint for a file that cannot be read; both speak of what to do and where."""
    with pytest.raises(DataError) as raised:
        read_rows(path)
    assert str(path) in raised.value.message
    assert raised.value.hint
    return raised.value.message


def written(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_lines_of_json_are_rows(name: str, tmp_path: Path) -> None:
    text = "\n".join(map(json.dumps, ROWS)) + "\n\n"
    assert read_rows(written(tmp_path / name, text)) == ROWS


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_array_of_json_is_rows(name: str, tmp_path: Path) -> None:
    assert read_rows(written(tmp_path / name, json.dumps(ROWS, indent=1))) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_gives_texts(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, '﻿question,answer\r\n1+1?,2\r\n"a, “b”\nc?",3\r\n')
    assert read_rows(path) == [{**row, "answer": str(row["answer"])} for row in ROWS]


def test_parquet_keeps_order_lists_and_nulls(tmp_path: Path) -> None:
    path = tmp_path / "a b [1].parquet"
    query = (
        "SELECT i, [i, i + 1] AS list, CASE WHEN i > 1 THEN 'x' END AS text FROM range(3000) t(i)"
    )
    duckdb.sql(f"COPY ({query}) TO '{path}' (ROW_GROUP_SIZE 512)")
    assert read_rows(path) == [
        {"i": i, "list": [i, i + 1], "text": "x" if i > 1 else None} for i in range(3000)
    ]


def test_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "split=test" / "a.parquet"
    path.parent.mkdir()
    duckdb.sql(f"COPY (SELECT 1 AS x) TO '{path}'")
    assert read_rows(path) == [{"x": 1}]


def test_torn_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    duckdb.sql(f"COPY (SELECT * FROM range(5000)) TO '{path}'")
    whole = path.read_bytes()
    for size in (0, 3, 100, len(whole) - 1):
        assert "cannot be read as parquet" in refused(written(path, whole[:size]))


def test_torn_json_lines_are_refused_with_the_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"x": 1}\n\n{"x": 2}\n{"x": ')
    assert "line 4" in refused(path)


def test_torn_json_array_is_refused_with_the_line(tmp_path: Path) -> None:
    assert "line 3" in refused(written(tmp_path / "a.json", '[\n{"x": 1},\n{"x": '))


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", '{"x": 1}\n7\n'), ("a.json", '[{"x": 1}, 7]')]
)
def test_row_that_is_no_object_is_refused(name: str, text: str, tmp_path: Path) -> None:
    assert "2 of `" in refused(written(tmp_path / name, text))


@pytest.mark.parametrize("text", ["x,y\n1,2\n3\n", "x,y\n1,2\n3,4,5\n"])
def test_csv_row_of_another_width_is_refused_with_the_line(text: str, tmp_path: Path) -> None:
    assert "line 3" in refused(written(tmp_path / "a.csv", text))


def test_csv_with_an_open_quote_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'x,y\n1,2\n"3,4\n')
    assert "not valid CSV near line 2" in refused(path)


def test_torn_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode() * 100)[:-12])
    refused(path)
    path.write_bytes(b'{"x": 1}\n')
    refused(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert "utf-8" in refused(written(tmp_path / "a.jsonl", b'{"x": "\xff"}\n'))


def test_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"
    assert "Git LFS pointer" in refused(written(tmp_path / "a.parquet", pointer))


def test_file_that_vanished_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a.jsonl")


def test_digest_is_over_the_bytes_of_all_files(tmp_path: Path) -> None:
    one, two = written(tmp_path / "1", b"ab"), written(tmp_path / "2", b"c")
    # printf abc | sha256sum
    assert files_digest([one, two]) == "sha256:ba7816bf8f01"
    assert files_digest([two, one]) != files_digest([one, two])


@pytest.mark.parametrize("name", ["README.md", "a.parquet.gz", "a.txt", "jsonl", "a.gz", ".csv"])
def test_other_files_are_no_data(name: str) -> None:
    assert data_suffix(name) == ""
