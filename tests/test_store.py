from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from fake_runs import finished_run, row, scores

from harness import database, runs, store
from harness.errors import StoreError, UsageError
from harness.ingest import GRADE_COLUMNS, SAMPLE_COLUMNS, store_error
from harness.types import Run


def rows_of(home: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    return store.query(home, sql, values, say=pytest.fail)[1]


def kept_aside(home: Path) -> list[str]:
    """Kinds of the files that were moved out of the way."""
    names = (path.name for path in (home / "leaderboards").glob("bench.duckdb.*-*"))
    return sorted(name.removeprefix("bench.duckdb.").split("-")[0] for name in names)


def samples_of(folder: Path) -> list[dict[str, Any]]:
    with duckdb.connect() as db:
        cursor = db.execute("FROM read_parquet(?)", [str(folder / "samples.parquet")])
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]


# Writing samples


def test_samples_come_back_as_written_and_in_order(tmp_path: Path) -> None:
    rows = [row(f"q{9 - i}", choice_logprobs=[-0.5, -1.25]) for i in range(10)]
    store.write_samples(tmp_path, iter(rows))
    assert samples_of(tmp_path) == rows
    assert [path.name for path in tmp_path.iterdir()] == ["samples.parquet"]


@pytest.mark.parametrize(
    "text",
    ["", "a\0b", "😀 é \u2028 \x7f", '"\\n', "x" * 1_000_000, "NULL", "[1, 2]", "{'a': 1}", "\r\n"],
    ids=["empty", "nul", "emoji", "quotes", "1 MB", "null", "list", "struct", "crlf"],
)
def test_any_text_survives(tmp_path: Path, text: str) -> None:
    store.write_samples(tmp_path, [row("q", output=text, prompt=text, answer=text)])
    (kept,) = samples_of(tmp_path)
    assert (kept["output"], kept["prompt"], kept["answer"]) == (text, text, text)


def test_lone_surrogates_become_question_marks(tmp_path: Path) -> None:
    store.write_samples(tmp_path, [row("q", output="a\ud800b")])
    assert samples_of(tmp_path)[0]["output"] == "a?b"


def test_infinite_and_undefined_logprobs_survive(tmp_path: Path) -> None:
    store.write_samples(tmp_path, [row("q", choice_logprobs=(-math.inf, math.nan, -1.5))])
    low, undefined, plain = samples_of(tmp_path)[0]["choice_logprobs"]
    assert (low, plain) == (-math.inf, -1.5)
    assert math.isnan(undefined)


def test_no_answer_is_null_and_no_samples_are_an_empty_file(tmp_path: Path) -> None:
    store.write_samples(tmp_path, [row("q", answer=None)])
    assert samples_of(tmp_path)[0]["answer"] is None
    store.write_samples(tmp_path, [])
    assert samples_of(tmp_path) == []


def test_a_row_without_a_column_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    store.write_samples(tmp_path, [row("old")])
    torn = row("new")
    del torn["score"]
    with pytest.raises(KeyError):
        store.write_samples(tmp_path, [torn])
    assert [kept["sample_id"] for kept in samples_of(tmp_path)] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["samples.parquet"]


def test_further_grades_get_a_file_of_their_own_and_lose_it_with_the_last(tmp_path: Path) -> None:
    grade = {"grader": "loose", "version": 2, "metric": "loose_match", "score": 0.0}
    grade |= {"answer": None, "parsed": False, "explanation": "nothing"}
    home = tmp_path
    finished_run(home, "r1", [row("q", grades=[grade])])
    found = rows_of(home, f"SELECT {', '.join(GRADE_COLUMNS)} FROM grades")
    assert found == [("q", 0, "loose", 2, "loose_match", 0.0, None, False, "nothing")]
    finished_run(home, "r1", [row("q")])
    assert rows_of(home, "FROM grades") == []


def test_tables_have_the_columns_that_files_have(tmp_path: Path) -> None:
    def columns(table: str) -> dict[str, str]:
        return {r[0]: r[1] for r in rows_of(tmp_path, f"DESCRIBE {table}")}

    assert columns("samples") == {"run_id": "VARCHAR", **SAMPLE_COLUMNS}
    assert columns("grades") == {"run_id": "VARCHAR", **GRADE_COLUMNS}
    assert set(columns("runs")) == set(Run.__slots__)


# Ingesting


def test_a_run_comes_in_whole(tmp_path: Path) -> None:
    finished_run(
        tmp_path,
        "r1",
        [row("a", 1.0, group_name="law"), row("b", 0.0, group_name="law")],
        flags=("greedy",),
        sampling={"temperature": 0.0},
        packages={"torch": "2"},
        argv=("bench", "eval"),
        seed=3,
    )
    store.ingest(tmp_path, "r1")
    fields = "model, flags, sampling->>'temperature', packages->>'torch', argv->>1, seed"
    assert rows_of(tmp_path, f"SELECT {fields}, started_at::VARCHAR FROM runs") == [
        ("base", ["greedy"], "0.0", "2", "eval", 3, "2026-01-01 00:00:00")
    ]
    assert rows_of(tmp_path, "SELECT metric, group_name, value, n FROM measures ORDER BY ALL") == [
        ("exact_match", "", 0.5, 2),
        ("exact_match", "law", 0.5, 2),
    ]
    assert rows_of(tmp_path, "SELECT sample_id, score FROM samples") == [("a", 1.0), ("b", 0.0)]


def test_ingesting_again_replaces(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1", scores([1, 0]))
    finished_run(tmp_path, "r2", scores([1]))
    for _ in range(3):
        store.ingest(tmp_path, "r1")
    finished_run(tmp_path, "r1", scores([1, 1, 1]))
    assert rows_of(tmp_path, "SELECT run_id, count(*) FROM samples GROUP BY 1 ORDER BY 1") == [
        ("r1", 3),
        ("r2", 1),
    ]
    assert rows_of(tmp_path, "SELECT count(*) FROM runs") == [(2,)]


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_run_without_samples_is_a_row_too(tmp_path: Path, status: str) -> None:
    run = finished_run(tmp_path, "r1", status=status, cause="out_of_memory", finished_at=None)
    held = runs.lock(runs.folder_of(tmp_path, run.run_id))
    assert rows_of(tmp_path, "SELECT status, cause, finished_at FROM runs") == [
        (status, "out_of_memory", None)
    ]
    assert held is not None
    os.close(held)


def test_steps_come_in_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    finished_run(tmp_path, "t1", kind="train", task="", protocol="")
    steps = [{"step": s, "epoch": s / 2, "metric": "loss", "value": 1 / s} for s in (1, 2)]
    lines = "".join(json.dumps(step) + "\n" for step in steps)
    (tmp_path / "runs/t1/steps.jsonl").write_text(
        lines + '{"step": 3, "metric": "loss", "value": NaN}\n{"step": 4, "met'
    )
    found = rows_of(tmp_path, "SELECT step, epoch, metric, value FROM steps WHERE step < 3")
    assert found == [(1, 0.5, "loss", 1.0), (2, 1.0, "loss", 0.5)]
    assert rows_of(tmp_path, "SELECT max(step), isnan(max(value)) FROM steps") == [(3, True)]


def test_a_query_takes_in_what_changed_meanwhile(tmp_path: Path) -> None:
    assert store.sync(tmp_path) == []
    run = finished_run(tmp_path, "r1", status="failed")
    assert store.sync(tmp_path) == ["r1"]
    assert store.sync(tmp_path) == []
    runs.write_manifest(tmp_path, Run(run_id=run.run_id, kind="eval", status="done"))
    assert rows_of(tmp_path, "SELECT status FROM runs") == [("done",)]


def test_a_killed_run_becomes_interrupted_though_nobody_wrote_so(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1", status="running", finished_at=None)
    held = runs.lock(tmp_path / "runs/r1")
    assert rows_of(tmp_path, "SELECT status FROM runs") == [("running",)]
    assert held is not None
    os.close(held)
    assert rows_of(tmp_path, "SELECT status, cause FROM runs") == [("interrupted", "killed")]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("manifest.json", '{"run_id": "torn", "ki'),
        ("manifest.json", '{"run_id": "torn", "kind": "eval", "status": "done", "alien": 1}'),
        ("manifest.json", '{"run_id": "torn", "kind": "eval", "status": "done", "seed": "x"}'),
        ("samples.parquet", "not parquet"),
        ("measures.json", '[{"metric": "acc", "value"'),
    ],
)
def test_a_torn_folder_is_named_and_holds_up_no_other(tmp_path: Path, file: str, text: str) -> None:
    finished_run(tmp_path, "torn", scores([1]))
    finished_run(tmp_path, "whole", scores([1]))
    (tmp_path / "runs/torn" / file).write_text(text)
    said: list[str] = []
    assert store.sync(tmp_path, say=said.append) == ["whole"]
    assert len(said) == 1
    assert "runs/torn" in said[0]
    with pytest.raises(StoreError):
        store.ingest(tmp_path, "torn")
    columns, found = store.query(tmp_path, "SELECT run_id FROM runs", say=said.append)
    assert (columns, found) == (["run_id"], [("whole",)])


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs/empty").mkdir(parents=True)
    assert store.sync(tmp_path, say=pytest.fail) == []
    with pytest.raises(StoreError, match="no manifest"):
        store.ingest(tmp_path, "empty")


def test_forgetting_and_a_vanished_folder(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1", scores([1]))
    store.sync(tmp_path)
    (tmp_path / "runs/r1").rename(tmp_path / "gone")
    assert rows_of(tmp_path, "SELECT count(*) FROM samples") == [(1,)]
    store.forget(tmp_path, "r1")
    for table in ("runs", "measures", "samples", "ingested"):
        assert rows_of(tmp_path, f"SELECT count(*) FROM {table}") == [(0,)]


def test_paths_with_quotes_and_patterns_are_only_paths(tmp_path: Path) -> None:
    home = tmp_path / "it's [a] *"
    finished_run(home, "r1", scores([1]))
    assert rows_of(home, "SELECT count(*) FROM samples") == [(1,)]


def test_registry_entries_are_replaced_by_name_and_survive_a_rebuild(tmp_path: Path) -> None:
    def entry(name: str, **fields: str) -> dict[str, str | None]:
        nothing = dict.fromkeys(database.MODEL_COLUMNS)
        return {**nothing, "name": name, **fields}

    store.record_models(tmp_path, [entry("a", note="old"), entry("b", parent="a")])
    store.record_models(tmp_path, [entry("a", note="new")])
    store.rebuild(tmp_path)
    found = rows_of(tmp_path, "SELECT name, parent, note FROM models ORDER BY name")
    assert found == [("a", None, "new"), ("b", "a", None)]


def test_recording_what_is_there_already_does_not_write(tmp_path: Path) -> None:
    rows = [{**dict.fromkeys(database.MODEL_COLUMNS), "name": "a"}]
    store.record_models(tmp_path, rows)
    before = store.database(tmp_path).stat().st_mtime_ns
    store.record_models(tmp_path, rows)
    assert store.database(tmp_path).stat().st_mtime_ns == before


# Asking


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run, for questions that must not change it."""
    home = tmp_path_factory.mktemp("asked")
    finished_run(home, "r1", scores([1]))
    store.sync(home)
    return home


REFUSED = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "COPY runs TO '/tmp/runs.csv'",
    "COPY runs FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/exported'",
    "IMPORT DATABASE '/tmp'",
    "ATTACH '/tmp/other.duckdb'",
    "ATTACH ':memory:' AS other",
    "DETACH bench",
    "INSTALL httpfs",
    "LOAD httpfs",
    "INSERT INTO runs (run_id) VALUES ('x')",
    "UPDATE runs SET model = 'x'",
    "DELETE FROM runs",
    "DROP TABLE runs",
    "CREATE TABLE x (a INT)",
    "CREATE TEMP TABLE x (a INT)",
    "CREATE MACRO m() AS 1",
    "CREATE SECRET (TYPE s3)",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET enable_external_access",
    "PRAGMA threads = 4",
    "PRAGMA enable_profiling",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "SELECT 1; DELETE FROM runs",
    "",
    " ; ",
    "SELEC 1",
    "SELECT nothing FROM runs",
    "SELECT * FROM nowhere",
    "SELECT CAST('x' AS INTEGER)",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_queries_that_write_reach_out_or_are_wrong_are_refused_in_one_sentence(
    asked: Path, sql: str
) -> None:
    with pytest.raises(UsageError) as caught:
        store.query(asked, sql)
    assert "\n" not in caught.value.message
    assert "\n" not in caught.value.hint
    assert caught.value.hint
    assert rows_of(asked, "SELECT run_id FROM runs") == [("r1",)]


def test_python_variables_are_not_tables(tmp_path: Path) -> None:
    runs_of_caller = duckdb.sql("SELECT 1 AS leaked")
    assert runs_of_caller is not None
    with pytest.raises(UsageError):
        store.query(tmp_path, "SELECT * FROM runs_of_caller")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS a",
        "FROM runs",
        "WITH x AS (SELECT 1) FROM x",
        "SHOW TABLES",
        "DESCRIBE runs",
        "SUMMARIZE runs",
        "EXPLAIN SELECT 1",
        "VALUES (1)",
        "PRAGMA table_info('runs')",
        "PIVOT measures ON metric USING first(value)",
        "SELECT sampling->>'temperature' FROM runs",
    ],
)
def test_all_ways_to_read_work(asked: Path, sql: str) -> None:
    columns, _ = store.query(asked, sql)
    assert columns


def test_published_numbers_are_there_and_text_is_not_a_number(tmp_path: Path) -> None:
    ((count, numbers, sources),) = rows_of(
        tmp_path, "SELECT count(*), count(value), count(DISTINCT source) FROM reference"
    )
    assert count > 6_000
    assert numbers > 6_000
    assert sources > 50
    found = rows_of(
        tmp_path,
        "SELECT value FROM reference WHERE source = 'ASFT' AND experiment = 'b1-bf16' "
        "AND task = 'medqa'",
    )
    assert found == [(0.3833,)]
    assert rows_of(tmp_path, "SELECT count(*) FROM reference WHERE isnan(value)") == [(0,)]


def test_a_read_only_home_is_still_read(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1")
    store.sync(tmp_path)
    finished_run(tmp_path, "r2")
    said: list[str] = []
    lock = Path(f"{store.database(tmp_path)}.lock")
    lock.unlink()
    # Not even root may create a file there.
    lock.symlink_to("/sys/lock")
    _, found = store.query(tmp_path, "SELECT run_id FROM runs", say=said.append)
    assert found == [("r1",)]
    assert "could not be brought up to date" in said[0]


# Views


def leaderboard(home: Path) -> list[tuple[Any, ...]]:
    return rows_of(home, "SELECT run_id FROM leaderboard")


def test_leaderboard_shows_the_latest_complete_run_of_each_protocol(tmp_path: Path) -> None:
    late = "2026-02-01T00:00:00.000Z"
    finished_run(tmp_path, "old", scores([0]))
    finished_run(tmp_path, "new", scores([1]), finished_at=late)
    finished_run(tmp_path, "other-protocol", scores([0]), protocol="p2")
    finished_run(tmp_path, "other-model", scores([0]), model="tuned")
    assert sorted(leaderboard(tmp_path)) == [("new",), ("other-model",), ("other-protocol",)]


@pytest.mark.parametrize(
    "changes",
    [
        {"limit_n": 10},
        {"flags": ("offline_sample",)},
        {"status": "failed"},
        {"status": "interrupted"},
        {"kind": "train"},
    ],
)
def test_incomplete_runs_are_history_but_not_on_the_leaderboard(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    finished_run(tmp_path, "r1", scores([1, 0]), **changes)
    assert leaderboard(tmp_path) == []
    assert rows_of(tmp_path, "SELECT run_id, value FROM history") == [("r1", 0.5)]


def test_a_run_without_a_measure_is_no_row_of_the_leaderboard(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1", scores([1]), measures=False)
    assert leaderboard(tmp_path) == []
    assert rows_of(tmp_path, "SELECT run_id, value FROM history") == [("r1", None)]


def test_flips_pair_two_models_question_by_question(tmp_path: Path) -> None:
    finished_run(tmp_path, "a", scores([1, 1, 0, 0]))
    finished_run(tmp_path, "b", scores([1, 0, 1, 0]), model="tuned")
    finished_run(tmp_path, "c", scores([1, 1, 1, 1]), model="tuned", protocol="p2")
    found = rows_of(
        tmp_path,
        "SELECT sample_id, flip FROM flips WHERE model_a = 'base' AND model_b = 'tuned' "
        "ORDER BY sample_id",
    )
    assert found == [("q0", "both_right"), ("q1", "lost"), ("q2", "won"), ("q3", "both_wrong")]


def test_failures_keep_the_cause(tmp_path: Path) -> None:
    finished_run(tmp_path, "ok", scores([1]))
    finished_run(tmp_path, "bad", status="failed", cause="out_of_memory", error="no room")
    found = rows_of(tmp_path, "SELECT run_id, cause, error FROM failures")
    assert found == [("bad", "out_of_memory", "no room")]


def test_lineage_leads_from_the_base_over_training_to_the_evaluation(tmp_path: Path) -> None:
    finished_run(tmp_path, "e0", scores([0]))
    finished_run(tmp_path, "t1", kind="train", task="", protocol="", recipe={"method": "sft"})
    finished_run(tmp_path, "e1", scores([1]), model="tuned")
    entries = [("tuned", "base", "t1"), ("twice", "tuned", None), ("loop", "loop", None)]
    store.record_models(
        tmp_path,
        [
            {**dict.fromkeys(database.MODEL_COLUMNS), "name": n, "parent": p, "run_id": r}
            for n, p, r in entries
        ],
    )
    found = rows_of(tmp_path, "SELECT path, train_run, train_status, eval_run, value FROM lineage")
    assert found == [
        (["base"], None, None, "e0", 0.0),
        (["base", "tuned"], "t1", "done", "e1", 1.0),
        (["base", "tuned", "twice"], None, None, None, None),
    ]


# A file that cannot be used


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8192 : 8192 + 4096] = b"\xff" * 4096
    path.write_bytes(data)


def corrupt_header(path: Path) -> None:
    path.write_bytes(b"hello" * 5_000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5_000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def alter(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as db:
        for statement in statements:
            db.execute(statement)


def newer(path: Path) -> None:
    alter(path, "UPDATE schema_version SET version = 99")


def older(path: Path) -> None:
    alter(path, "UPDATE schema_version SET version = 0")


def foreign(path: Path) -> None:
    path.unlink()
    alter(path, "CREATE TABLE mine (a INT)")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (corrupt, "corrupt"),
        (corrupt_header, "corrupt"),
        (cut, "corrupt"),
        (empty, "empty"),
        (newer, "newer"),
        (older, "older"),
        (foreign, "foreign"),
    ],
)
def test_an_unusable_history_is_kept_aside_and_built_anew(
    tmp_path: Path, spoil: Any, reason: str
) -> None:
    finished_run(tmp_path, "r1", scores([1, 0]))
    store.sync(tmp_path)
    spoil(store.database(tmp_path))
    said: list[str] = []
    columns, found = store.query(tmp_path, "SELECT run_id, value FROM history", say=said.append)
    assert (columns, found) == (["run_id", "value"], [("r1", 0.5)])
    assert len(said) == 1
    assert "built anew" in said[0]
    assert kept_aside(tmp_path) == [reason]
    finished_run(tmp_path, "r2", scores([1]))
    assert rows_of(tmp_path, "SELECT count(*) FROM runs") == [(2,)]


def test_damage_that_shows_only_while_reading_is_mended_too(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1", [row(f"q{i}", output=os.urandom(99).hex()) for i in range(9_000)])
    store.sync(tmp_path)
    path = store.database(tmp_path)
    data = bytearray(path.read_bytes())
    for position in range(len(data) // 4, len(data) - 4_096, 65_536):
        data[position : position + 64] = b"\xff" * 64
    path.write_bytes(data)
    said: list[str] = []
    sql = "SELECT count(output), max(length(output)) FROM samples"
    assert store.query(tmp_path, sql, say=said.append)[1] == [(9_000, 198)]
    assert kept_aside(tmp_path) == ["corrupt"]


def test_rebuilding_finds_every_run_and_drops_the_log_of_the_old_file(tmp_path: Path) -> None:
    for i in range(3):
        finished_run(tmp_path, f"r{i}", scores([1]))
    store.sync(tmp_path)
    wal = Path(f"{store.database(tmp_path)}.wal")
    wal.write_bytes(b"left by a killed process")
    assert store.rebuild(tmp_path) == ["r0", "r1", "r2"]
    assert rows_of(tmp_path, "SELECT count(*) FROM runs") == [(3,)]
    assert not wal.exists()
    assert kept_aside(tmp_path) == []


def test_a_folder_in_place_of_the_file_is_not_touched(tmp_path: Path) -> None:
    store.database(tmp_path).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"bench\.duckdb"):
        store.query(tmp_path, "SELECT 1")


def test_a_home_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "leaderboards").write_text("a file where the folder should be")
    with pytest.raises(StoreError) as caught:
        store.connect(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "BENCH_HOME" in caught.value.hint


def test_a_full_disk_is_called_so() -> None:
    error = duckdb.IOException("IO Error: Could not write file: No space left on device")
    found = store_error(error, Path("bench.duckdb"))
    assert found.message == "the disk is full: `bench.duckdb` could not be written"
    assert "free some space" in found.hint


# Several at once


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(database, "PATIENCE_S", 0.2)
    return


HOLD = (
    "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); "
    "sys.stdin.read()"
)


@pytest.mark.usefixtures("short_patience")
def test_a_history_that_stays_busy_is_given_up_with_the_holder_named(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1")
    store.sync(tmp_path)
    path = str(store.database(tmp_path))
    command = [sys.executable, "-c", HOLD, path]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"held by process {holder.pid}"):
            store.ingest(tmp_path, "r1")
        with pytest.raises(StoreError, match=f"held by process {holder.pid}"):
            store.connect(tmp_path)
        holder.communicate("")
    store.ingest(tmp_path, "r1")


def test_a_busy_history_is_waited_for(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1")
    store.sync(tmp_path)
    command = [sys.executable, "-c", HOLD, str(store.database(tmp_path))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        letting_go = threading.Timer(0.5, holder.stdin.close)
        letting_go.start()
        store.ingest(tmp_path, "r1")
        letting_go.join()
        holder.stdin = None
    assert rows_of(tmp_path, "SELECT count(*) FROM runs") == [(1,)]


WORK = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[3]]
from fake_runs import finished_run, scores
from harness import store

home, name = Path(sys.argv[1]), sys.argv[2]
for i in range(2):
    finished_run(home, f"{name}-{i}", scores([1, 0, 1]), model=name)
    store.ingest(home, f"{name}-{i}")
    store.query(home, "SELECT count(*) FROM leaderboard")
"""


def work(home: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, str(home), name, str(Path(__file__).parent)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_eight_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    workers = [work(tmp_path, f"m{i}") for i in range(8)]
    ended = [(worker.communicate()[1], worker.returncode) for worker in workers]
    assert ended == [("", 0)] * 8
    with store.connect(tmp_path) as db:
        counts = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM samples)"
        assert db.execute(counts).fetchone() == (16, 48)
        assert db.execute("SELECT count(*) FROM leaderboard").fetchone() == (8,)
    assert kept_aside(tmp_path) == []


def test_processes_that_find_the_history_unusable_at_once_lose_nothing(tmp_path: Path) -> None:
    finished_run(tmp_path, "first", scores([1]))
    store.sync(tmp_path)
    store.database(tmp_path).write_bytes(b"not a database")
    workers = [work(tmp_path, f"m{i}") for i in range(4)]
    said = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert sum("built anew" in text for text in said) == 1
    assert rows_of(tmp_path, "SELECT count(*) FROM runs") == [(9,)]
    assert kept_aside(tmp_path) == ["corrupt"]
