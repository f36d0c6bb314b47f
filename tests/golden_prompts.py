"""What each variant asks, three of its offline questions and one in chat form, kept as files.

python -m tests.golden_prompts, started in the repository, brings tests/golden/ up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness import registry
from harness.questions import questions
from harness.task import Task
from harness.types import JSON, to_json

FOLDER = Path(__file__).with_name("golden")
UPDATE = "python -m tests.golden_prompts"


def path_of(task: Task) -> Path:
    return FOLDER / f"{task.id.replace(':', '.')}.json"


def rendered(task: Task) -> JSON:
    """The first, a middle and the last question of the offline sample, and who grades answers."""
    requests = list(questions(task, offline=True).requests())
    in_chat = next(questions(task, offline=True, chat=True).requests())
    return {
        "version": task.version,
        "graders": [f"{scorer.name}@{scorer.version}" for scorer in task.scorers],
        "requests": [to_json(requests[place]) for place in (0, len(requests) // 2, -1)],
        "chat": to_json(in_chat),
    }


def difference(task: Task, kept: JSON) -> str | None:
    """What has to be done where the variant does not ask what was kept; None where it does."""
    now = json.loads(json.dumps(rendered(task)))
    if now == kept:
        return None
    if now["version"] != kept["version"]:
        return f"`{task.id}` has a new version: run `{UPDATE}`"
    changed = ", ".join(name for name in now if now[name] != kept[name])
    return (
        f"`{task.id}` is still version {task.version}, but its {changed} changed: numbers before "
        f"and after cannot be compared. Raise `version` of the task, then run `{UPDATE}`"
    )


def read(task: Task) -> JSON | None:
    path = path_of(task)
    kept: JSON | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
    return kept


def update() -> list[str]:
    """Write what is new; returns what was refused, since its version was not raised."""
    FOLDER.mkdir(exist_ok=True)
    tasks = registry.all_tasks()
    for path in {*FOLDER.glob("*.json")} - {path_of(task) for task in tasks}:
        path.unlink()
    refused = []
    for task in tasks:
        kept = read(task)
        problem = difference(task, kept) if kept else None
        if problem and kept and kept["version"] == task.version:
            refused.append(problem)
        elif problem or not kept:
            text = json.dumps(rendered(task), indent=1, ensure_ascii=False)
            path_of(task).write_text(text + "\n", "utf-8")
    return refused


if __name__ == "__main__":
    sys.exit("\n".join(update()) or None)
