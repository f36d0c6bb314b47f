from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from harness.datasets import (
    DatasetNotFoundError,
    choice_texts,
    gold_index,
    load,
    packaged,
    text,
)
from harness.errors import DataError
from harness.types import Dataset

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEADER = (
    "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: t-*.jsonl\n---\n"
)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with one dataset of two files."""
    folder = tmp_path / "root" / "org" / "quiz"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(HEADER)
    (folder / "t-1.jsonl").write_text(lines({"q": "a"}, {"q": "b"}))
    (folder / "t-2.jsonl").write_text(lines({"q": "c"}))
    return tmp_path / "root"


QUIZ = Dataset(path="org/quiz", config="main")


def test_data_root_gives_rows_in_the_order_of_the_files(root: Path) -> None:
    loaded = load(QUIZ, ["q"], data_root=root)
    assert [row["q"] for row in loaded.rows] == ["a", "b", "c"]
    assert loaded.source == f"data root {root}"
    assert [(path.name, n) for path, n in loaded.files] == [("t-1.jsonl", 2), ("t-2.jsonl", 1)]


def test_row_is_traced_to_its_file(root: Path) -> None:
    loaded = load(QUIZ, data_root=root)
    folder = root / "org" / "quiz"
    assert loaded.where(1) == f"row 2 of `{folder / 't-1.jsonl'}`"
    assert loaded.where(2) == f"row 1 of `{folder / 't-2.jsonl'}`"


def test_revision_changes_with_the_bytes_that_were_read(root: Path) -> None:
    before = load(QUIZ, data_root=root).revision
    (root / "org" / "quiz" / "unused.csv").write_text("x\n1\n")
    assert load(QUIZ, data_root=root).revision == before
    (root / "org" / "quiz" / "t-2.jsonl").write_text(lines({"q": "d"}))
    after = load(QUIZ, data_root=root).revision
    assert after != before
    assert after.startswith("sha256:")
    assert len(after) == len("sha256:") + 12


def test_data_root_wins_over_a_folder_of_that_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "here" / "org" / "quiz"
    other.mkdir(parents=True)
    (other / "test.jsonl").write_text(lines({"q": "local"}))
    monkeypatch.chdir(tmp_path / "here")
    assert len(load(QUIZ, data_root=root).rows) == 3
    local = load(Dataset(path="org/quiz"))
    assert (local.rows, local.source) == ([{"q": "local"}], "local folder")


def test_local_file_is_read_whatever_the_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('[{"q": "a"}]')
    loaded = load(Dataset(path=str(path), split="anything"), ["q"])
    assert (loaded.rows, loaded.source) == ([{"q": "a"}], "local file")


def test_local_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.xlsx"
    path.write_text("")
    with pytest.raises(DataError) as raised:
        load(Dataset(path=str(path)))
    assert raised.value.hint == "there are: .parquet, .jsonl, .json, .csv"


def test_row_without_a_column_is_refused_with_its_place(root: Path) -> None:
    folder = root / "org" / "quiz"
    (folder / "t-2.jsonl").write_text(lines({"q": "c"}, {"question": "d", "n": 1}))
    with pytest.raises(DataError) as raised:
        load(QUIZ, ["q"], data_root=root)
    assert raised.value.message == f"row 2 of `{folder / 't-2.jsonl'}` has no column `q`"
    assert raised.value.hint == "it has: question, n"


def test_empty_split_is_refused(root: Path) -> None:
    for path in (root / "org" / "quiz").glob("*.jsonl"):
        path.write_text("\n")
    with pytest.raises(DataError, match=r"split `test` of `org/quiz` has no rows in .*t-1\.jsonl"):
        load(QUIZ, data_root=root)


def test_data_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load(QUIZ, data_root=tmp_path / "nowhere")


def test_split_that_the_data_root_lacks_is_not_taken_from_elsewhere(root: Path) -> None:
    with pytest.raises(DataError, match=r"no split `train` in .*, only `test`") as raised:
        load(Dataset(path="org/quiz", config="main", split="train"), data_root=root)
    assert not isinstance(raised.value, DatasetNotFoundError)


def test_missing_local_path_is_refused_without_asking_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="there is no file or folder"):
        load(Dataset(path=str(tmp_path / "gone.jsonl")))


def test_packaged_rows_are_those_of_the_split() -> None:
    train = load(Dataset(path="tunebench:gsm8k.jsonl", split="train"), ["question", "answer"])
    test = load(Dataset(path="tunebench:gsm8k.jsonl", split="test"))
    assert (len(train.rows), len(test.rows)) == (8, 6)
    assert (train.source, train.revision) == ("packaged", test.revision)
    assert all("split" not in row for row in train.rows)


def test_packaged_file_without_splits_is_taken_whole() -> None:
    assert load(Dataset(path="tunebench:arithmetic.jsonl", split="test")).rows


def test_packaged_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no packaged file `nothing\.jsonl`"):
        load(Dataset(path="tunebench:nothing.jsonl"))


def test_packaged_stand_in_keeps_the_split() -> None:
    hub = Dataset(path="org/quiz", config="main", split="dev", revision=COMMIT)
    stand_in = packaged(hub, "quiz.jsonl")
    assert stand_in == Dataset(path="tunebench:quiz.jsonl", config="main", split="dev")
    assert packaged(stand_in, "other.jsonl") == stand_in


@pytest.mark.parametrize("value", [-1, 4, True, None, "A", 1.0])
def test_gold_that_is_no_choice_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="one of 0 to 3"):
        gold_index(value, 4)
    assert gold_index(3, 4) == 3


@pytest.mark.parametrize("values", [["a", "b", "c"], ["a", "b", "c", None], "abcd", None])
def test_choices_that_are_no_list_of_four_texts_are_refused(values: object) -> None:
    with pytest.raises(DataError, match="4"):
        choice_texts(values, 4)
    assert choice_texts(["a", "b"], 2) == ("a", "b")


def test_column_that_holds_no_text_is_refused() -> None:
    assert text({"q": ""}, "q") == ""
    with pytest.raises(DataError, match="column `q` should hold text, but is None"):
        text({"q": None}, "q")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as reading one dataset needs."""

    files: ClassVar[dict[str, str]] = {
        "README.md": HEADER,
        "t-1.jsonl": lines({"q": "a"}),
        "t-2.jsonl": lines({"q": "b"}),
        "big.bin": "not wanted",
    }
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/api/datasets/org/quiz"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(json.dumps({"id": "org/quiz", "sha": COMMIT, "siblings": siblings}))
        elif self.path.startswith("/datasets/org/quiz/resolve/"):
            self.answer(self.files[self.path.rsplit("/", 1)[1]])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, body: str) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{abs(hash(body))}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


LOAD = """
import json, sys
from pathlib import Path
from harness.datasets import load
from harness.errors import DataError
from harness.types import Dataset
try:
    loaded = load(Dataset(**json.loads(sys.argv[1])))
    told = [loaded.rows, loaded.revision, loaded.source, [path.name for path, _ in loaded.files]]
except DataError as error:
    told = [type(error).__name__, error.message, error.hint]
loaded_modules = [m for m in ("datasets", "pandas", "pyarrow", "torch") if m in sys.modules]
print(json.dumps([told, loaded_modules]))
"""


def load_elsewhere(
    home: Path, endpoint: str, offline: bool = False, **dataset: str
) -> list[object]:
    """What a process of its own loads: the hub's library reads its settings when imported."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "BENCH_DATA_ROOT"):
        environment.pop(name, None)
    asked = json.dumps({"path": "org/quiz", "config": "main", **dataset})
    done = subprocess.run(
        [sys.executable, "-c", LOAD, asked],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    told, heavy = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    return list(told)


def test_hub_is_asked_once_and_then_the_cache_is_enough(tmp_path: Path) -> None:
    rows = [{"q": "a"}, {"q": "b"}]
    files = ["t-1.jsonl", "t-2.jsonl"]
    with hub() as endpoint:
        assert load_elsewhere(tmp_path, endpoint) == [rows, COMMIT, "hub", files]
        assert not any("big.bin" in path for path in Hub.asked)
        Hub.asked.clear()
        cached = [rows, COMMIT, "hub cache", files]
        assert load_elsewhere(tmp_path, endpoint) == cached
        assert load_elsewhere(tmp_path, endpoint, revision=COMMIT) == cached
        assert Hub.asked == []
    assert load_elsewhere(tmp_path, endpoint, offline=True) == cached


def test_cache_that_lacks_a_file_is_filled_from_the_hub(tmp_path: Path) -> None:
    with hub() as endpoint:
        load_elsewhere(tmp_path, endpoint)
        for path in tmp_path.rglob("t-*.jsonl"):
            path.unlink()
        assert load_elsewhere(tmp_path, endpoint)[2] == "hub"


def test_repository_that_the_hub_does_not_know_is_not_found(tmp_path: Path) -> None:
    with hub() as endpoint:
        kind, message, hint = load_elsewhere(tmp_path, endpoint, path="org/quizz")
    assert kind == "DatasetNotFoundError"
    assert str(message).startswith(
        f"dataset `org/quizz` was not found: no data root was given; the hub cache "
        f"`{tmp_path / 'hub'}` does not have it; the hub answered: "
    )
    assert "--data-root DIR" in str(hint)


def test_hub_that_is_out_of_reach_or_switched_off_is_named(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    assert "could not be reached (ConnectError)" in str(load_elsewhere(tmp_path, nobody)[1])
    told = load_elsewhere(tmp_path, nobody, offline=True)
    assert str(told[1]).endswith("the hub is switched off by HF_HUB_OFFLINE")


def test_split_that_the_hub_lacks_is_named(tmp_path: Path) -> None:
    with hub() as endpoint:
        kind, message, _ = load_elsewhere(tmp_path, endpoint, split="train")
    assert kind == "DataError"
    assert message == "`org/quiz` has no split `train` in the hub's repository, only `test`"


@pytest.mark.data
def test_real_benchmarks_have_the_published_sizes(data_root: Path) -> None:
    sizes = {
        ("openai/gsm8k", "main", "train"): 7_473,
        ("openai/gsm8k", "main", "test"): 1_319,
        ("cais/mmlu", "all", "test"): 14_042,
        ("cais/mmlu", "all", "dev"): 285,
        ("GBaker/MedQA-USMLE-4-options-hf", "default", "test"): 1_273,
        ("openlifescienceai/medmcqa", "default", "validation"): 4_183,
        ("HuggingFaceH4/MATH-500", "default", "test"): 500,
    }
    found = {
        key: len(load(Dataset(path=key[0], config=key[1], split=key[2]), data_root=data_root).rows)
        for key in sizes
    }
    assert found == sizes
