from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from harness import runs
from harness.errors import StoreError, UsageError
from harness.types import Completion, Run, to_json

PLAN = '{"id": "a", "kind": "generate", "prompt": "?"}\n'


def make_run(home: Path, run_id: str = "r1", **fields: object) -> Run:
    run = replace(Run(run_id=run_id, kind="eval", status="running"), **fields)  # type: ignore[arg-type]
    (runs.folder_of(home, run_id)).mkdir(parents=True)
    return runs.write_manifest(home, run)


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        status="done",
        flags=("offline_sample",),
        argv=("bench", "eval"),
        sampling={"stop": ["Question:"], "n": 2},
        limit_n=5,
    )
    assert runs.read_manifest(runs.folder_of(tmp_path, "r1")) == run


def test_a_running_manifest_without_a_process_reads_as_interrupted(tmp_path: Path) -> None:
    make_run(tmp_path)
    run = runs.read_manifest(runs.folder_of(tmp_path, "r1"))
    assert (run.status, run.cause) == ("interrupted", "killed")


def test_a_running_manifest_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    make_run(tmp_path)
    folder = runs.folder_of(tmp_path, "r1")
    held = runs.lock(folder)
    assert held is not None
    assert runs.read_manifest(folder).status == "running"
    assert runs.lock(folder) is None
    os.close(held)
    assert runs.read_manifest(folder).status == "interrupted"


def test_a_new_run_is_held_before_anybody_can_see_it(tmp_path: Path) -> None:
    plan = tmp_path / "plan.jsonl"
    plan.write_text(PLAN)
    run = Run(run_id="r1", kind="eval", status="running")
    held = runs.create(tmp_path, run, plan)
    assert runs.read_manifest(runs.folder_of(tmp_path, "r1")).status == "running"
    assert [line["id"] for line in runs.read_requests(runs.folder_of(tmp_path, "r1"))] == ["a"]
    os.close(held)


def completion(request_id: str) -> Completion:
    return Completion(request_id=request_id, text="é\ud83d", finish_reason="stop", prompt_tokens=3)


def write_lines(path: Path, *lines: bytes) -> None:
    path.write_bytes(b"".join(lines))


def test_a_torn_last_completion_is_ignored_and_then_cut(tmp_path: Path) -> None:
    import json

    whole = [json.dumps(to_json(completion(name))).encode() + b"\n" for name in ("a", "b")]
    path = tmp_path / runs.COMPLETIONS
    write_lines(path, *whole, whole[0][:-9])
    assert list(runs.read_completions(tmp_path)) == [completion("a"), completion("b")]
    runs.mend_tail(path)
    assert path.read_bytes() == b"".join(whole)


@pytest.mark.parametrize("content", [b"", b"{torn", b"x" * 200_000])
def test_mending_a_file_without_any_whole_line_empties_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / runs.COMPLETIONS
    write_lines(path, content)
    runs.mend_tail(path)
    assert path.read_bytes() == b""


def test_mending_finds_a_line_end_far_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / runs.COMPLETIONS
    write_lines(path, b'{"whole": 1}\n', b"x" * 200_000)
    runs.mend_tail(path)
    assert path.read_bytes() == b'{"whole": 1}\n'


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / runs.COMPLETIONS, b"{}\n"[:1] + b"\n", b"{}\n")
    with pytest.raises(StoreError, match="line 1 is not JSON"):
        list(runs.read_completions(tmp_path))


def test_a_torn_manifest_is_one_sentence(tmp_path: Path) -> None:
    folder = runs.folder_of(tmp_path, "r1")
    folder.mkdir(parents=True)
    (folder / runs.MANIFEST).write_text('{"run_id": "r1", "ki')
    with pytest.raises(StoreError, match=r"manifest .* cannot be read"):
        runs.read_manifest(folder)
    assert list(runs.read_all(tmp_path)) == []


def test_a_run_is_found_by_its_unique_beginning_or_end(tmp_path: Path) -> None:
    make_run(tmp_path, "20260101T000000Z-eval-Tiny-gsm8k-aaaaaa")
    make_run(tmp_path, "20260101T000000Z-eval-Tiny-gsm8k-bbbbbb")
    assert runs.find(tmp_path, "bbbbbb").run_id.endswith("bbbbbb")
    with pytest.raises(UsageError, match="fits 2 runs"):
        runs.find(tmp_path, "20260101")
    with pytest.raises(UsageError, match="unknown run `cccccc`"):
        runs.find(tmp_path, "cccccc")


def test_earlier_runs_of_the_same_question_come_newest_first(tmp_path: Path) -> None:
    for stamp, key in (("20260101", "k"), ("20260102", "other"), ("20260103", "k")):
        make_run(tmp_path, f"{stamp}T0Z-eval-Tiny_base-t-{stamp[-2:]}", model="Tiny/base", key=key)
    asked = Run(run_id="new", kind="eval", status="running", model="Tiny/base", key="k")
    assert [run.run_id[:8] for run in runs.earlier(tmp_path, asked)] == ["20260103", "20260101"]


@pytest.mark.parametrize("home", ["file", "/proc/nothing"])
def test_an_unwritable_home_is_one_sentence_with_a_hint(tmp_path: Path, home: str) -> None:
    (tmp_path / "file").write_text("")
    plan = tmp_path / "plan.jsonl"
    plan.write_text(PLAN)
    run = Run(run_id="r1", kind="eval", status="running")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        runs.create(tmp_path / home, run, plan)
    assert "BENCH_HOME" in caught.value.hint


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("old")
    with pytest.raises(StoreError, match="disk is full"), runs.writing(path):
        Path("/dev/full").write_text("x")
    assert path.read_text() == "old"


def test_a_draft_vanishes_and_takes_those_of_killed_processes_with_it(tmp_path: Path) -> None:
    left = runs.runs_folder(tmp_path) / ".plan-left"
    left.mkdir(parents=True)
    (left / ".lock").touch()
    with runs.draft(tmp_path, "plan") as first, runs.draft(tmp_path, "plan") as second:
        assert not left.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert list(runs.runs_folder(tmp_path).iterdir()) == []


def test_drafts_made_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    def use(number: int) -> str:
        with runs.draft(tmp_path, "plan") as place:
            (place / "plan.jsonl").write_text(str(number))
            return (place / "plan.jsonl").read_text()

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(use, range(1500))) == [str(number) for number in range(1500)]
    assert list(runs.runs_folder(tmp_path).iterdir()) == []
