"""Writes the requests that lm-evaluation-harness would send for the tasks that it shares with us.

python tests/lm_eval_requests.py OUT SCRATCH LIMIT GROUP_LIMIT, started in a data root: the harness
then finds the datasets as relative paths. GROUP_LIMIT is for each part of a task that has parts. A
process of its own, since the libraries read the offline switches from the environment when they
are imported. 0 as a limit asks for everything.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import lm_eval.tasks

FEWSHOT_SEED = 1234
IN_PARTS = {"mmlu", "mmlu:generative", "hendrycks_math", "minerva_math"}
# Ours, lm-eval's, and the shots where lm-eval leaves them open.
TASKS: tuple[tuple[str, str, int | None], ...] = (
    ("gsm8k", "gsm8k", None),
    ("gsm8k:cot", "gsm8k_cot", None),
    ("gsm8k:zeroshot", "gsm8k_cot_zeroshot", None),
    ("mmlu", "mmlu", 5),
    ("mmlu:generative", "mmlu_generative", 5),
    ("medqa", "medqa_4options", None),
    ("medmcqa", "medmcqa", None),
    ("math", "hendrycks_math500", None),
    ("math:minerva", "minerva_math500", None),
    ("hendrycks_math", "hendrycks_math", None),
    ("minerva_math", "minerva_math", None),
    ("aime24:lm_eval", "aime24", None),
    ("aime25:lm_eval", "aime25", None),
)


def main(out: Path, scratch: Path, limit: int, group_limit: int) -> None:
    manager = lm_eval.tasks.TaskManager(include_path=str(without_missing_splits(scratch)))
    with out.open("w", encoding="utf-8") as file:
        for ours, theirs, shots in TASKS:
            for task in manager.load([theirs])["tasks"].values():
                if shots is not None:
                    task.set_config(key="num_fewshot", value=shots)
                n = (group_limit if ours in IN_PARTS else limit) or None
                for chat in (False, True):
                    write(task, ours, chat, n, file)


def without_missing_splits(scratch: Path) -> Path:
    """The two medical tasks as they ship, but for splits that a data root may not have."""
    packaged = Path(lm_eval.tasks.__file__).parent
    for name in ("medqa", "medmcqa"):
        folder = shutil.copytree(packaged / name, scratch / "tasks" / name)
        for config in folder.glob("*.yaml"):
            lines = config.read_text().splitlines(keepends=True)
            dropped = ("training_split", "validation_split")
            config.write_text("".join(x for x in lines if not x.startswith(dropped)))
    return scratch / "tasks"


def write(task: Any, name: str, chat: bool, limit: int | None, file: Any) -> None:
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    task.build_all_requests(
        limit=limit,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=as_json if chat else None,
    )
    by_doc: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_doc.setdefault(instance.doc_id, []).append(instance.args)
    group = task.config.dataset_name if name in IN_PARTS else ""
    for doc_id, asked in by_doc.items():
        line = {"task": name, "group": group, "doc_id": doc_id, "chat": chat}
        line["prompt"] = asked[0][0]
        if task.OUTPUT_TYPE == "multiple_choice":
            line["choices"] = [args[1] for args in asked]
        else:
            line["settings"] = asked[0][1]
        file.write(json.dumps(line) + "\n")


def as_json(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    assert add_generation_prompt
    return json.dumps(messages)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
