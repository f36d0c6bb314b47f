from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import registry
from harness.errors import UsageError

PLUGIN = """
from harness import registry
from dataclasses import replace
gsm8k = registry._built_in()["gsm8k"]
TASKS = (replace(gsm8k, name="mine"), replace(gsm8k, variant="mine"))
CLASH = (gsm8k,)
WRONG = [gsm8k]
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution; write its entry points to what is given."""
    (tmp_path / "their_tasks.py").write_text(PLUGIN)
    metadata = tmp_path / "their_tasks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-tasks\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._everything.cache_clear()
    yield metadata / "entry_points.txt"
    registry._everything.cache_clear()
    sys.modules.pop("their_tasks", None)


def declare(path: Path, value: str) -> None:
    path.write_text(f"[tunebench.tasks]\ntheirs = {value}\n")


def test_task_is_looked_up_by_name() -> None:
    assert registry.task("gsm8k").title == "GSM8K, 5-shot"


def test_every_task_is_listed_once_and_by_name() -> None:
    ids = [task.id for task in registry.all_tasks()]
    assert ids == sorted(set(ids))
    assert {"arithmetic", "gsm8k", "math", "medmcqa", "medqa", "mmlu"} <= set(ids)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("gsm8kk", "unknown task `gsm8kk`", "did you mean `gsm8k`?"),
        ("GSM8K", "unknown task `GSM8K`", "did you mean `gsm8k`?"),
        ("medicall", "unknown task `medicall`", "did you mean `medical`?"),
        ("xyz", "unknown task `xyz`", "`bench tasks list` shows what there is"),
        ("", "unknown task ``", "`bench tasks list` shows what there is"),
        ("mmlu:nothing_like_it", "task `mmlu` has no variant `nothing_like_it`", ""),
    ],
)
def test_unknown_name_is_refused(name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        registry.task(name)
    assert raised.value.message == message
    assert hint in raised.value.hint
    assert raised.value.hint


def test_list_keeps_order_expands_groups_and_drops_repeats() -> None:
    found = registry.tasks("mmlu, medical,gsm8k,medqa,asft_medical,")
    assert [task.id for task in found] == [
        *("mmlu", "medqa", "medmcqa", "mmlu:medical", "gsm8k", "medqa:asft", "medmcqa:asft")
    ]


@pytest.mark.parametrize("spec", ["", " , "])
def test_empty_list_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="no task was named"):
        registry.tasks(spec)


def test_groups_hold_only_tasks_that_exist_and_no_task_is_called_like_one() -> None:
    ids = {task.id for task in registry.all_tasks()}
    for name, members in registry.groups().items():
        assert set(members) <= ids
        assert name not in ids


def test_tasks_of_a_plugin_are_found(plugin: Path) -> None:
    declare(plugin, "their_tasks:TASKS")
    assert registry.task("mine").title == "GSM8K, 5-shot"
    assert registry.task("gsm8k:mine").variant == "mine"
    assert {"mine", "gsm8k:mine", "gsm8k"} <= {task.id for task in registry.all_tasks()}


def test_unknown_variant_names_the_known_ones(plugin: Path) -> None:
    declare(plugin, "their_tasks:TASKS")
    with pytest.raises(UsageError, match="task `gsm8k` has no variant `zzzzzzzz`") as raised:
        registry.task("gsm8k:zzzzzzzz")
    assert raised.value.hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("their_tasks:CLASH", "two tasks are called `gsm8k`"),
        ("their_tasks:WRONG", "`their_tasks:WRONG` of plugin `theirs` is no tuple of tasks"),
        ("their_tasks:NOTHING", "the plugin `theirs` cannot be loaded: "),
        ("nowhere_at_all:TASKS", "the plugin `theirs` cannot be loaded: "),
    ],
)
def test_plugin_that_cannot_be_used_is_named(plugin: Path, value: str, message: str) -> None:
    declare(plugin, value)
    with pytest.raises(UsageError) as raised:
        registry.all_tasks()
    assert raised.value.message.startswith(message)
    # What tunebench ships is still there.
    assert registry.task("gsm8k").id == "gsm8k"


def test_import_looks_nothing_up() -> None:
    code = "import sys, harness.registry; print([m for m in sys.modules if m.startswith('tasks')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
