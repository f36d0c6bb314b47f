from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness import registry
from harness.cli.tasks import tasks_app
from harness.errors import BenchError, UsageError

NO_DATA = {"BENCH_DATA_ROOT": None, "HF_HUB_OFFLINE": "1"}


def bench(*arguments: str, status: int = 0) -> str:
    """What `bench tasks …` prints to stdout."""
    result = CliRunner().invoke(tasks_app, arguments, env=NO_DATA)
    if isinstance(result.exception, BenchError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout


def test_list_shows_every_task_once() -> None:
    rows = json.loads(bench("list", "--json"))
    listed = [row["task"] + (":" + row["variant"] if row["variant"] else "") for row in rows]
    assert listed == [task.id for task in registry.all_tasks()]
    gsm8k = next(row for row in rows if row["task"] == "gsm8k")
    assert gsm8k == {
        "task": "gsm8k",
        "variant": "",
        "kind": "generate",
        "metric": "strict_match",
        "shots": 5,
        "source": "lm-evaluation-harness 0.4.13, gsm8k 3.0",
        "title": "GSM8K, 5-shot",
    }


def test_list_can_be_markdown() -> None:
    assert bench("list", "--format", "md").startswith("| task | variant | kind |")


def test_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown format `mdd`"):
        bench("list", "--format", "mdd")


def test_show_prints_the_protocol_and_a_whole_prompt() -> None:
    text = bench("show", "mmlu", "--offline-sample")
    assert "about astronomy." in text
    assert text.count("\nAnswer:") == 6
    assert "choices: ' A', ' B', ' C', ' D'" in text
    assert "the first of the question's group from dev" in text


def test_show_gives_the_same_fingerprint_each_time_and_another_for_other_shots() -> None:
    def show(*options: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            bench("show", "gsm8k", "--offline-sample", "--json", *options)
        )
        return told

    one, again, other = show(), show(), show("--shots", "2")
    assert one == again
    assert one["protocol"] != other["protocol"]
    assert (one["n"], one["shots"], other["shots"]) == (6, 5, 2)
    assert one["shot_rule"] == "drawn anew for each question from train, seed 1234"
    assert one["protocol_parts"]["graders"] == ["gsm8k_strict@1", "gsm8k_flexible@1"]
    assert one["first_request"]["id"] == "gsm8k-0"
    assert one["tokens"] is None


def test_show_chat_names_who_speaks() -> None:
    text = bench("show", "medqa", "--offline-sample", "--chat", "--shots", "1")
    assert "[user]\nQuestion: " in text
    assert "[assistant]\n" in text


def test_check_gives_every_task_full_marks_on_what_is_there() -> None:
    rows = json.loads(bench("check", "--json"))
    assert [row["task"] for row in rows] == [task.id for task in registry.all_tasks()]
    assert {row["gold"] for row in rows} == {1.0}


def test_check_fails_where_gold_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "openai" / "gsm8k" / "main"
    folder.mkdir(parents=True)
    right, wrong = ({"question": "?", "answer": answer} for answer in ("#### 7", "seven"))
    for split, rows in (("train", [right] * 5), ("test", [right, wrong])):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = bench("check", "gsm8k", "--data-root", str(tmp_path), "--json", status=1)
    [found] = json.loads(text)
    assert (found["n"], found["gold"], found["wrong"]) == (2, 0.5, "gsm8k-1")
    assert found["source"] == f"data root {tmp_path}"


def test_commands_load_nothing_heavy() -> None:
    code = """
import sys
from harness.cli.tasks import tasks_app
tasks_app(["check", "gsm8k", "--offline-sample"], standalone_mode=False)
heavy = {"torch", "transformers", "datasets", "pyarrow", "pandas", "numpy", "duckdb"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
