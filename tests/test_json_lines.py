"""Lines of JSON are the same ones whoever writes or reads them."""

from __future__ import annotations

import math

import pytest

from harness import json_lines
from harness.json_lines import read_line, written_line

ROWS = [
    {"id": "a", "text": "naïve\n\u2028", "score": 0.1, "logprobs": (-0.5, -1e-9), "none": None},
    {"id": "infinite", "logprobs": (-math.inf, -1.0), "score": math.inf},
    {"id": "large", "n": 10**30},
    {"id": "empty", "logprobs": ()},
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["id"]))
def test_rows_are_read_back_as_they_were_written(row: dict[str, object]) -> None:
    lists = {key: list(v) if isinstance(v, tuple) else v for key, v in row.items()}
    assert read_line(written_line(row)) == lists


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["id"]))
def test_standard_library_reads_the_same(
    row: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = written_line(row)
    fast = read_line(line)
    monkeypatch.setattr(json_lines, "_msgspec", lambda: None)
    assert read_line(line) == fast
    assert read_line(written_line(row)) == fast


def test_numbers_that_are_not_finite_are_no_null() -> None:
    assert written_line({"a": (math.nan,)}) == b'{"a": [NaN]}\n'


def test_lone_surrogates_are_written_as_question_marks_and_read_as_they_are() -> None:
    assert written_line({"a": "x\ud800"}) == b'{"a": "x?"}\n'
    assert read_line(b'{"a": "x\\ud800"}') == {"a": "x\ud800"}


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        read_line(b'{"a": ')
