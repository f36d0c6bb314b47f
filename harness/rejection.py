"""Rejection sampling: a teacher answers problems several times, what is right becomes SFT data.

The answers are an evaluation run like any other, so an interrupted one goes on where it stopped,
and each kept trace says which run, question and grader it comes from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import evaluate, runs, store
from harness.errors import BenchError, UsageError
from harness.ingest import Say
from harness.questions import Questions, questions
from harness.session import Listener
from harness.task import Task, render
from harness.types import JSON, Dataset, Run, Sample, to_json

FILTERED = "filter"
"""Variant under which the run of a task's problems stands in the history, beside the dataset's
split: no benchmark, so never in a benchmark's column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """What came of it. traces: answers in all; repeated: right ones that equal an earlier one.

    per_problem: kept traces of each problem, those without one too.
    """

    run_id: str
    path: str
    problems: int
    traces: int
    correct: int
    repeated: int
    kept: int
    per_problem: dict[str, int]

    @property
    def solved(self) -> int:
        return sum(count > 0 for count in self.per_problem.values())

    def histogram(self) -> dict[int, int]:
        """How many problems have so many kept traces."""
        return dict(sorted(Counter(self.per_problem.values()).items()))


def problems(task: Task, data: str | None, config: str | None, split: str) -> Task:
    """The task over problems to train on.

    data: a dataset in the columns of the task's own, which is taken where there is none.
    Raises UsageError for a task that nothing can be kept of, and for its own test questions.
    """
    if task.kind != "generate":
        raise UsageError(
            f"`{task.id}` only chooses, so there is no text to keep",
            "name a task that generates, such as `gsm8k`",
        )
    if task.judge:
        raise UsageError(
            f"`{task.id}` is read by a judge, which does not say what is right",
            "name a task with a scorer, such as `gsm8k`",
        )
    dataset = Dataset(
        path=data or _training_path(task),
        config=config or (task.dataset.config if data is None else "default"),
        split=split,
        revision=task.dataset.revision if data is None else None,
    )
    if dataset == replace(task.dataset, revision=dataset.revision):
        raise UsageError(
            f"`{split}` is the split that `{task.id}` asks, so a model would learn the benchmark",
            "take another one, for example `--split train`, or `--data FILE`",
        )
    variant = f"{task.variant}-{FILTERED}" if task.variant else FILTERED
    return replace(task, variant=variant, dataset=dataset)


def _training_path(task: Task) -> str:
    """Where a task draws its examples from is where its training problems are."""
    shown = task.fewshot.dataset if task.fewshot else None
    return shown.path if shown else task.dataset.path


def filter_traces(
    task: Task,
    teacher: str,
    path: Path,
    options: evaluate.Options,
    *,
    most: int | None = None,
    listener: Listener | None = None,
    say: Say,
) -> Filtered:
    """Ask the teacher, grade, and write what is right to `path`, one example a line.

    task: as `problems` gives it. most: traces kept of one problem, the shortest first.
    Raises UsageError where the file is there already, and what the evaluation raises.
    """
    if path.exists():
        raise UsageError(f"`{path}` is there already", "name another file, or move it away")
    home = runs.home_folder(options.home)
    (run,) = evaluate.evaluate(teacher, (task,), options, listener=listener)
    if run.status != "done":
        raise BenchError(
            f"the teacher's run `{run.run_id}` {run.status}: {run.error or run.cause}",
            "the same command goes on where it stopped",
        )
    asked = questions(task, data_root=options.data_root, limit=options.limit, shots=0)
    found = _answers(home, run.run_id, say)
    return _write(path, asked, run, found, most)


_ANSWERS = """
SELECT sample_id, sample_index, output, answer, score, grader, truncated, completion_tokens
FROM samples WHERE run_id = ? ORDER BY sample_id, sample_index
"""


def _answers(home: Path, run_id: str, say: Say) -> list[JSON]:
    columns, rows = store.query(home, _ANSWERS, [run_id], say)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _write(
    path: Path, asked: Questions, run: Run, answers: Sequence[JSON], most: int | None
) -> Filtered:
    correct = [one for one in answers if one["score"] >= 1 and not one["truncated"]]
    by_problem: dict[str, list[JSON]] = {sample.id: [] for sample in asked.samples}
    for one in correct:
        traces = by_problem[one["sample_id"]]
        if all(one["output"].strip() != other["output"].strip() for other in traces):
            traces.append(one)
    different = sum(map(len, by_problem.values()))
    kept = {name: _shortest(traces, most) for name, traces in by_problem.items()}
    lines = [json.dumps(line, ensure_ascii=False) for line in _examples(asked, run, kept)]
    runs.write_atomically(path, "".join(f"{line}\n" for line in lines))
    return Filtered(
        run_id=run.run_id,
        path=str(path),
        problems=len(by_problem),
        traces=len(answers),
        correct=len(correct),
        repeated=len(correct) - different,
        kept=len(lines),
        per_problem={name: len(traces) for name, traces in kept.items()},
    )


def _shortest(traces: Sequence[JSON], most: int | None) -> list[JSON]:
    chosen = sorted(traces, key=lambda one: (one["completion_tokens"], one["sample_index"]))[:most]
    return sorted(chosen, key=lambda one: int(one["sample_index"]))


def _examples(asked: Questions, run: Run, kept: Mapping[str, Sequence[JSON]]) -> Iterator[JSON]:
    """The question alone, without solved examples, and the answer as the teacher wrote it."""
    for sample in asked.samples:
        for one in kept[sample.id]:
            yield {
                "prompt": _prompt(asked, sample),
                "completion": one["output"],
                "provenance": {
                    "task": run.task,
                    "dataset": run.dataset,
                    "dataset_revision": run.dataset_revision,
                    "sample_id": sample.id,
                    "sample_index": one["sample_index"],
                    "teacher": run.model,
                    "teacher_fingerprint": run.model_fingerprint,
                    "run_id": run.run_id,
                    "sampling": run.sampling,
                    "grader": one["grader"],
                    "answer": one["answer"],
                },
            }


def _prompt(asked: Questions, sample: Sample) -> object:
    """Text, or messages as objects, in the form of SFT data."""
    request = render(asked.task, sample, (), chat=asked.chat)
    return to_json(request)["prompt"]
