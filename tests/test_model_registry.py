from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.model_registry import Pair, delete, insert, names, parse_entry, read
from harness.shipped import shipped

BY_HAND = """{
    "Second": {"path": "org/second",   "note": "spaces stay"},

    "First":  {
        "path": "org/first"
    }
}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_registry_holds_the_reference_models() -> None:
    book = read(shipped("model_registry.json"))
    pairs = {name for name, entry in book.items() if isinstance(entry, Pair)}
    assert pairs == {
        *("Tiny", "Mistral_7B", "Llama3_8B", "Qwen2_7B", "Gemma2_9B", "Zephyr_7B", "Falcon_7B"),
        *("Llama31_Tulu", "Llama31_PKU_Custom", "Llama31_MAHALS", "Llama31_Tulu10pct"),
    }
    assert {"Llama2_7B", "Qwen25_7B", "Qwen25_Math_15B", "Qwen25_3B"} <= set(book)


def test_the_shipped_registry_is_written_as_edits_write() -> None:
    text = shipped("model_registry.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ({"path": "o/m", "dtyp": "auto"}, "unknown field `M.dtyp` in F", "did you mean `dtype`?"),
        (
            {"base": {"path": "o/m", "revison": "x"}, "instruct": "o/i"},
            "unknown field `M.base.revison` in F",
            "did you mean `revision`?",
        ),
        (
            {"path": "o/m", "hiden_dim": 3},
            "unknown field `M.hiden_dim` in F",
            "did you mean `hidden_dim`?",
        ),
        ({}, "`M.path` is missing in F", "an entry needs `path`, or `base` and `instruct`"),
        (
            {"base": "o/m"},
            "`M.instruct` is missing in F",
            "an entry needs `base` and `instruct`",
        ),
        (
            {"base": "o/m", "instruct": "o/i", "path": "o/p"},
            "unknown field `M.path` in F",
            "",
        ),
        (
            {"path": "o/m", "dtype": "half"},
            "`M.dtype` is \"half\" in F: input should be 'auto', 'float32', 'bfloat16' or "
            "'float16'",
            "",
        ),
        (
            {"path": "o/m", "max_model_len": 0},
            "`M.max_model_len` is 0 in F: input should be greater than 0",
            "",
        ),
        (
            {"path": "o/m", "trust_remote_code": 1},
            "`M.trust_remote_code` is 1 in F: input should be a valid boolean",
            "",
        ),
        ("o/m", "`M` in F is not an object", 'write "M": {"path": "org/name"}'),
    ],
)
def test_a_bad_entry_is_refused_with_the_path_of_the_field(
    entry: object, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as raised:
        parse_entry("M", entry, "F")
    assert raised.value.message == message
    if hint:
        assert raised.value.hint == hint


@pytest.mark.parametrize("name", ["a/b", "a,b", "", "-x", "a b", "a@b"])
def test_names_that_could_not_be_typed_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a model"):
        parse_entry(name, {"path": "o/m"}, "F")


def test_an_absent_file_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "model_registry.json") == {}


def test_broken_json_is_told_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "model_registry.json", '{\n  "A": {"path": "o/m"\n  "B": {}\n}\n')
    with pytest.raises(UsageError) as raised:
        read(path)
    assert raised.value.message == (
        f"`{path}` is not valid JSON at line 3, column 3: expecting ',' delimiter"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a JSON object"),
        ('{"A": {"path": "o/m"}, "A": {"path": "o/n"}}', "`A` stands twice"),
        ("", "not valid JSON at line 1, column 1"),
    ],
)
def test_other_files_that_are_no_registry(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(write(tmp_path / "model_registry.json", text))


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "model_registry.json"
    path.write_bytes(b'{"A": "\xff"}')
    with pytest.raises(UsageError, match="is not UTF-8: byte 7"):
        read(path)


def test_insert_leaves_every_other_byte_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "model_registry.json", BY_HAND)
    insert(path, "Third", {"path": "org/third", "note": "é"}, replace=False)
    added = ',\n    "Third": {\n      "path": "org/third",\n      "note": "é"\n    }\n}\n'
    assert path.read_text(encoding="utf-8") == BY_HAND.removesuffix("\n}\n") + added


def test_replace_keeps_the_place(tmp_path: Path) -> None:
    path = write(tmp_path / "model_registry.json", BY_HAND)
    insert(path, "Second", {"path": "org/new"}, replace=True)
    old = '{"path": "org/second",   "note": "spaces stay"}'
    new = '{\n      "path": "org/new"\n    }'
    assert path.read_text(encoding="utf-8") == BY_HAND.replace(old, new)


def test_a_name_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "model_registry.json", BY_HAND)
    with pytest.raises(UsageError, match="`First` is in"):
        insert(path, "First", {"path": "org/x"}, replace=False)
    assert path.read_text(encoding="utf-8") == BY_HAND


@pytest.mark.parametrize("name", ["First", "Second"])
def test_delete_leaves_the_others_as_they_were(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "model_registry.json", BY_HAND)
    other = {"First": "Second", "Second": "First"}[name]
    kept = read(path)[other]
    delete(path, name)
    assert read(path) == {other: kept}
    assert ('"path": "org/second",   "note"' in path.read_text()) == (other == "Second")


def test_a_registry_can_be_emptied_and_filled_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "model_registry.json"
    insert(path, "A", {"path": "o/a"}, replace=False)
    assert path.read_text() == '{\n  "A": {\n    "path": "o/a"\n  }\n}\n'
    delete(path, "A")
    assert path.read_text() == "{}\n"
    insert(path, "B", {"path": "o/b"}, replace=False)
    assert names(path) == ["B"]


@pytest.mark.parametrize(
    "text", ["{}", "{ }\n", '{"A": {"path": "o/a"}}', '\n {"A":{"path":"o/a"} }  \n', "{\n}\n"]
)
def test_insert_and_delete_work_in_any_layout(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "model_registry.json", text)
    before = read(path)
    insert(path, "Z", {"path": "o/z"}, replace=False)
    assert names(path) == [*before, "Z"]
    delete(path, "Z")
    assert read(path) == before


def test_delete_of_an_unknown_name_helps(tmp_path: Path) -> None:
    path = write(tmp_path / "model_registry.json", BY_HAND)
    with pytest.raises(UsageError) as raised:
        delete(path, "Frist")
    assert raised.value.hint == "did you mean `First`?"


def test_a_link_stays_a_link_and_the_mode_stays(tmp_path: Path) -> None:
    real = write(tmp_path / "real.json", BY_HAND)
    real.chmod(0o640)
    link = tmp_path / "model_registry.json"
    link.symlink_to(real)
    insert(link, "Third", {"path": "o/t"}, replace=False)
    assert link.is_symlink()
    assert "Third" in names(real)
    assert real.stat().st_mode & 0o777 == 0o640


def _insert_many(path: Path, prefix: str, count: int) -> None:
    for i in range(count):
        insert(path, f"{prefix}{i}", {"path": f"org/{prefix}{i}"}, replace=False)


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "model_registry.json", BY_HAND)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_insert_many, args=(path, p, 25)) for p in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    wanted = {f"{p}{i}" for p in "abc" for i in range(25)} | {"First", "Second"}
    assert set(names(path)) == wanted
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [".model_registry.json.lock", "model_registry.json"]
