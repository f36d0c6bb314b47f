from __future__ import annotations

import csv
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
from click.testing import Result
from fake_runs import finished_run, row, scores
from typer.testing import CliRunner

from harness import runs, store
from harness.cli import history
from harness.errors import StoreError, UsageError

app = typer.Typer()
app.command("leaderboard")(history.leaderboard)
app.command("sql")(history.sql)
app.command("compare")(history.compare)
app.add_typer(history.runs_app, name="runs")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models on one task, and a limited run; the home that commands use by default."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path, "run-base", scores([1.0] * 50 + [0.0] * 150))
    finished_run(tmp_path, "run-tuned", scores([1.0] * 100 + [0.0] * 100), model="tuned")
    finished_run(tmp_path, "run-small", scores([1.0]), model="small", limit_n=1)
    return tmp_path


def bench(*arguments: str, status: int = 0, typed: str | None = None) -> Result:
    result = CliRunner().invoke(app, arguments, input=typed)
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def objects(result: Result) -> Any:
    return json.loads(result.stdout)


def test_leaderboard_shows_intervals_and_no_limited_run(home: Path) -> None:
    lines = bench("leaderboard").stdout.splitlines()
    assert lines[0].split()[:4] == ["task", "metric", "model", "value"]
    assert [line.split()[2] for line in lines[2:]] == ["tuned", "base"]
    assert "0.431 to 0.569" in lines[2]


def test_leaderboard_as_json_holds_the_whole_view(home: Path) -> None:
    first, second = objects(bench("leaderboard", "--format", "json"))
    assert (first["model"], first["value"], first["n"]) == ("tuned", 0.5, 200)
    assert second["run_id"] == "run-base"
    assert objects(bench("leaderboard", "--json")) == [first, second]


def test_leaderboard_with_everything_shows_limits(home: Path) -> None:
    found = objects(bench("leaderboard", "--all", "--json"))
    assert {(one["model"], one["limit_n"]) for one in found} == {
        ("base", None),
        ("tuned", None),
        ("small", 1),
    }


def test_leaderboard_can_be_narrowed(home: Path) -> None:
    finished_run(home, "v", scores([1]), variant="cs336")

    def ids(*arguments: str) -> list[str]:
        return [one["run_id"] for one in objects(bench("leaderboard", "--json", *arguments))]

    assert ids("--task", "gsm8k:cs336") == ["v"]
    assert sorted(ids("--task", "gsm8k")) == ["run-base", "run-tuned", "v"]
    assert ids("--model", "tuned") == ["run-tuned"]


@pytest.mark.parametrize("format", ["table", "md", "csv", "html", "latex"])
def test_leaderboard_has_all_formats(home: Path, format: str) -> None:
    assert "tuned" in bench("leaderboard", "--format", format).stdout


def test_an_empty_leaderboard_says_what_to_do(home: Path) -> None:
    result = bench("leaderboard", "--model", "small", "--json")
    assert objects(result) == []
    assert "--all" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("leaderboard", "--format", "tabel"),
        ("sql", "SELECT 1", "--format", "tabel"),
        ("compare", "base", "tuned", "--format", "tabel"),
        ("runs", "list", "--format", "tabel"),
    ],
)
def test_an_unknown_format_is_refused_with_the_nearest(
    home: Path, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        bench(*arguments)
    assert caught.value.message == "unknown format `tabel`"
    assert caught.value.hint == "did you mean `table`?"


def test_sql_answers_in_csv_and_json(home: Path) -> None:
    query = (
        "SELECT model, count(*) AS n FROM samples JOIN runs USING (run_id) GROUP BY 1 ORDER BY 1"
    )
    table = list(csv.reader(io.StringIO(bench("sql", query, "-f", "csv").stdout)))
    assert table == [["model", "n"], ["base", "200"], ["small", "1"], ["tuned", "200"]]
    assert objects(bench("sql", query, "--json"))[0] == {"model": "base", "n": 200}


def test_small_numbers_keep_their_digits_in_a_table(home: Path) -> None:
    done = CliRunner().invoke(app, ["sql", "SELECT 1.329e-5::DOUBLE AS lr, 0.0::DOUBLE AS z"])
    assert done.stdout.splitlines()[-1].split() == ["1.329e-05", "0.0000"]


def test_sql_that_writes_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="only reads"):
        bench("sql", "DELETE FROM runs")


GUIDE = Path(__file__).parent.parent / "leaderboards" / "README.md"


@pytest.mark.parametrize("query", re.findall(r"```sql\n(.*?)```", GUIDE.read_text(), re.DOTALL))
def test_queries_of_the_guide_run(home: Path, query: str) -> None:
    assert isinstance(objects(bench("sql", query, "--json")), list)


def test_compare_prints_a_table_and_says_a_sentence(home: Path) -> None:
    result = bench("compare", "base", "tuned")
    assert "better" in result.stdout
    assert "+0.2500" in result.stdout
    assert result.stderr.startswith("gsm8k rose by 25.0 points")


def test_compare_exits_with_3_when_anything_is_worse(home: Path) -> None:
    result = bench("compare", "tuned", "base", "--json", status=3)
    (found,) = objects(result)
    assert (found["verdict"], found["lost"], found["won"]) == ("worse", 50, 0)
    assert list(found) == [
        *("task", "variant", "metric", "n", "base", "tuned", "delta", "ci_low", "ci_high"),
        *("p", "p_holm", "both_right", "lost", "won", "both_wrong", "verdict"),
    ]


def test_compare_as_csv_has_the_same_columns(home: Path) -> None:
    (found,) = csv.DictReader(io.StringIO(bench("compare", "base", "tuned", "-f", "csv").stdout))
    assert (found["delta"], found["verdict"]) == ("0.25", "better")


def test_runs_list_shows_every_status(home: Path) -> None:
    finished_run(home, "bad", status="failed", cause="out_of_memory")
    found = objects(bench("runs", "list", "--json"))
    assert {one["run_id"] for one in found} == {"run-base", "run-tuned", "run-small", "bad"}
    (bad,) = objects(bench("runs", "list", "--status", "failed", "--json"))
    assert (bad["cause"], bad["value"]) == ("out_of_memory", None)


def test_runs_list_names_a_torn_folder(home: Path) -> None:
    (home / "runs/torn").mkdir()
    (home / "runs/torn/manifest.json").write_text('{"run')
    result = bench("runs", "list")
    assert "runs/torn/manifest.json" in result.stderr
    assert "run-base" in result.stdout


def test_runs_show_tells_what_why_and_the_end_of_the_log(home: Path) -> None:
    finished_run(home, "bad", status="failed", cause="killed", error="gone", argv=("bench", "eval"))
    log = "\n".join(f"line {i}" for i in range(100))
    (home / "runs/bad/worker.log").write_text(log)
    text = bench("runs", "show", "bad").stdout
    assert re.search(r"^cause +killed$", text, re.MULTILINE)
    assert re.search(r'^argv +\["bench", "eval"\]$', text, re.MULTILINE)
    assert "git_commit" not in text
    assert "line 99" in text
    assert "line 79" not in text


def test_runs_show_as_json_has_measures(home: Path) -> None:
    found = objects(bench("runs", "show", "run-t", "--json"))
    assert found["run"]["model"] == "tuned"
    assert [(m["metric"], m["value"]) for m in found["measures"]] == [("exact_match", 0.5)]
    assert found["log"] == []
    assert "exact_match" in bench("runs", "show", "run-t").stdout


def test_runs_delete_asks_first(home: Path) -> None:
    bench("runs", "delete", "run-base", typed="n\n", status=1)
    assert (home / "runs/run-base").exists()
    bench("runs", "delete", "run-base", typed="y\n")
    assert not (home / "runs/run-base").exists()


def test_runs_delete_removes_folder_and_rows(home: Path) -> None:
    store.sync(home)
    bench("runs", "delete", "run-base", "run-t", "--yes")
    assert [path.name for path in (home / "runs").iterdir()] == ["run-small"]
    assert objects(bench("sql", "SELECT DISTINCT run_id FROM samples", "--json")) == [
        {"run_id": "run-small"}
    ]


def test_runs_delete_refuses_a_running_run(home: Path) -> None:
    held = runs.lock(home / "runs/run-base")
    assert held is not None
    with pytest.raises(UsageError, match="is running"):
        bench("runs", "delete", "run-base", "--yes")
    os.close(held)
    assert (home / "runs/run-base").exists()


def test_runs_delete_takes_a_torn_run_by_its_whole_id(home: Path) -> None:
    (home / "runs/torn").mkdir()
    (home / "runs/torn/manifest.json").write_text('{"run')
    with pytest.raises(StoreError):
        bench("runs", "delete", "tor", "--yes")
    bench("runs", "delete", "torn", "--yes")
    assert not (home / "runs/torn").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "*", "nosuch"])
def test_runs_delete_takes_only_ids_of_runs(home: Path, name: str) -> None:
    with pytest.raises(UsageError):
        bench("runs", "delete", "--yes", "--", name)
    assert len(list((home / "runs").iterdir())) == 3


def test_runs_rebuild_says_how_many(home: Path) -> None:
    assert "holds 3 run(s)" in bench("runs", "rebuild").stderr


def test_runs_export_packs_the_folder_without_its_lock(home: Path) -> None:
    (home / "runs/run-base/.lock").touch()
    target = bench("runs", "export", "run-base").stdout.strip()
    with tarfile.open(home / target) as archive:
        assert sorted(archive.getnames()) == [
            "run-base/manifest.json",
            "run-base/measures.json",
            "run-base/samples.parquet",
        ]


@pytest.mark.parametrize(
    ("format", "reader"),
    [("csv", "read_csv"), ("parquet", "read_parquet"), ("jsonl", "read_json")],
)
def test_runs_export_writes_samples_as_tables(home: Path, format: str, reader: str) -> None:
    finished_run(home, "odd", [row("q", output='a"b\n,é', choice_logprobs=[-1.5])])
    target = home / f"it's.{format}"
    bench("runs", "export", "odd", "--format", format, "-o", str(target))
    found = duckdb.execute(f"SELECT sample_id, output FROM {reader}(?)", [str(target)]).fetchall()
    assert found == [("q", 'a"b\n,é')]


def test_runs_export_never_overwrites(home: Path) -> None:
    target = home / "mine.csv"
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        bench("runs", "export", "run-base", "-f", "csv", "-o", str(target))
    assert target.read_text() == "mine"


def test_runs_export_of_a_run_without_samples_leaves_no_file(home: Path) -> None:
    finished_run(home, "bad", status="failed")
    with pytest.raises(UsageError, match="no samples yet"):
        bench("runs", "export", "bad", "-f", "parquet")
    assert not list(home.glob("*bad*"))


def test_home_can_be_given(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert objects(bench("runs", "list", "--json", "--home", str(other))) == []
