"""Are scores through the bridge those of lm-eval's own hf backend, question by question?

    python -m benchmarks.parity_bridge --data-root DIR [--limit 20] [--model Tiny/base]

Five kinds of task: multiple choice, answers of several tokens, rolling perplexity (in windows),
generation with filters, a group. Both sides compute in float32 on the CPU. lm-eval runs in a
process of its own, in the data root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record

REPOSITORY = Path(__file__).resolve().parent.parent
INCLUDE = REPOSITORY / "tests" / "lm_eval_tasks"
# Task, kind, longest context (0 = the model's): short, so that a text takes several windows.
TASKS = (
    ("mmlu_anatomy", "multiple choice", 0),
    ("medmcqa_options", "answers of several tokens", 0),
    ("gsm8k_text", "rolling perplexity", 64),
    ("gsm8k", "generation with filters", 0),
    ("mmlu_stem", "group of multiple choice", 0),
    ("hendrycks_math", "group of generation", 0),
)

Scores = dict[str, dict[str, Any]]  # question → metric → value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--model", default="Tiny/base")
    parser.add_argument("--theirs", nargs=3, metavar=("TASK", "CONTEXT", "PATH"))
    options = parser.parse_args()
    if options.theirs:
        _run_lm_eval(*options.theirs, options.limit, options.model)
        return
    os.environ["LM_EVAL_INCLUDE_PATH"] = str(INCLUDE)
    record("parity_bridge", {"limit": options.limit, "tasks": [_row(*t, options) for t in TASKS]})


def _row(task: str, kind: str, context: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        ours, our_values, our_s = _ours(task, context, options, Path(name))
        theirs, their_values, their_s = _theirs(task, context, options, Path(name))
    differing = [key for key in theirs if not _alike(ours.get(key), theirs[key])]
    shared = sorted(our_values.keys() & their_values.keys())
    return {
        "task": task,
        "kind": kind,
        "questions": len(theirs),
        "same questions": ours.keys() == theirs.keys(),
        "questions with other scores": len(differing),
        "metrics": len(shared),
        "missing metrics": sorted(their_values.keys() - our_values.keys()),
        "largest difference of a metric": max(
            abs(our_values[key] - their_values[key]) / max(1, abs(their_values[key]))
            for key in shared
        ),
        "seconds of ours, with planning and grading": round(our_s, 1),
        "seconds of lm-eval": round(their_s, 1),
    }


def _alike(ours: dict[str, Any] | None, theirs: dict[str, Any]) -> bool:
    if ours is None or ours.keys() != theirs.keys():
        return False
    return all(abs(ours[name] - theirs[name]) <= 1e-4 * max(1, abs(theirs[name])) for name in ours)


def _ours(
    task: str, context: int, options: argparse.Namespace, home: Path
) -> tuple[Scores, dict[str, float], float]:
    from harness import store
    from harness.evaluate import evaluate

    started = time.monotonic()
    (run,) = evaluate(
        options.model,
        f"lm_eval/{task}",
        limit=options.limit,
        data_root=options.data_root,
        settings={"dtype": "float32"} | ({"max_model_len": str(context)} if context else {}),
        home=home,
    )
    seconds = time.monotonic() - started
    assert run.status == "done", (run.cause, run.error)
    scores: Scores = {}
    query = "SELECT sample_id, $1 AS metric, score FROM samples UNION ALL "
    query += "SELECT sample_id, metric, score FROM grades"
    for sample_id, metric, score in store.query(home, query, [run.primary_metric])[1]:
        scores.setdefault(sample_id, {})[metric] = score
    measured = store.query(home, "SELECT group_name, metric, value FROM measures")[1]
    return (
        scores,
        {f"{group or task}/{metric}": value for group, metric, value in measured},
        seconds,
    )


def _theirs(
    task: str, context: int, options: argparse.Namespace, folder: Path
) -> tuple[Scores, dict[str, float], float]:
    out = folder / "theirs.json"
    command = [sys.executable, "-m", "benchmarks.parity_bridge", "--model", options.model]
    command += ["--data-root", str(options.data_root), "--limit", str(options.limit)]
    started = time.monotonic()
    subprocess.run(
        [*command, "--theirs", task, str(context), str(out)],
        check=True,
        cwd=options.data_root,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "PYTHONPATH": str(REPOSITORY),
        },
    )
    seconds = time.monotonic() - started
    found = json.loads(out.read_text())
    return found["scores"], found["values"], seconds


def _run_lm_eval(task: str, context: str, path: str, limit: int, model: str) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from harness.bridge.asking import metric_name
    from harness.bridge.score import per_sample
    from harness.models import model as find_model
    from harness.models import resolve

    arguments = {"pretrained": resolve(find_model(model, Path.cwd())).path, "dtype": "float32"}
    results: Any = simple_evaluate(
        model="hf",
        model_args=arguments | ({"max_length": int(context)} if int(context) else {}),
        tasks=[task],
        device="cpu",
        batch_size=8,
        limit=limit,
        bootstrap_iters=10,
        task_manager=TaskManager(include_path=str(INCLUDE)),
    )
    scores: Scores = {}
    for name, entries in results["samples"].items():
        for entry in entries:
            own = scores.setdefault(f"{name}/{entry['doc_id']}", {})
            for metric in entry["metrics"]:
                own[metric_name(metric, entry["filter"])] = per_sample(entry[metric])
    values = {
        f"{name}/{metric_name(*key.split(','))}": value
        for name, entries in results["results"].items()
        for key, value in entries.items()
        if "," in key and "_stderr" not in key
    }
    Path(path).write_text(json.dumps({"scores": scores, "values": values}))


if __name__ == "__main__":
    main()
