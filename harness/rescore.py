"""Grade the saved answers of runs again: without a model, without a dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness import grades, runs
from harness.bridge.scoring import score_lm_eval
from harness.errors import StoreError, UsageError, did_you_mean
from harness.lm_eval_task import is_lm_eval
from harness.metrics import sampling_measures, summarise
from harness.plan import fingerprint
from harness.registry import task_of
from harness.score import answers, grade_row, graded, score, scored, write_measures
from harness.scorers import GRADERS
from harness.task import Scorer, Task
from harness.types import JSON, Measure, Run, Scored


def rescore(
    home: str | Path, wanted: str, grader: str | None = None, *, replacing: bool = False
) -> Run:
    """The run after grading its saved answers again; its manifest is written last.

    grader: a text grader of `harness.scorers.GRADERS`, whose grades and measure (`name@version`)
    come beside what there is. Without one the task's own graders are asked: where they are those
    of the run, everything is graded anew in place; where their versions changed, theirs come
    beside too, or with `replacing` become the run's own, whose protocol is then another.
    A run that was answered but never scored (its grader raised) is finished.
    Raises UsageError for what cannot be graded, GraderError where a grader raises.
    """
    home = Path(home)
    run = runs.find(home, wanted)
    folder = runs.folder_of(home, run.run_id)
    with _held(folder):
        run = _gradable(runs.read_manifest(folder), folder)
        if grader is None:
            again = _by_its_task(run, folder, replacing)
        else:
            again = _by_one(run, folder, _text_grader(grader))
        return runs.write_manifest(home, again)


def gradable(home: str | Path) -> list[str]:
    """Ids of all finished evaluations, oldest first."""
    found = runs.read_all(Path(home))
    return [run.run_id for run in found if run.kind == "eval" and run.status == "done"]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = runs.lock(folder)
    if lock is None:
        raise UsageError(
            f"`{folder.name}` is running, so its answers are not all there", "wait until it is done"
        )
    try:
        yield
    finally:
        os.close(lock)


def _gradable(run: Run, folder: Path) -> Run:
    if run.kind != "eval" or not (folder / runs.COMPLETIONS).exists():
        raise UsageError(
            f"`{run.run_id}` has no saved answers: it is of kind {run.kind}",
            "`bench runs list` shows what there is",
        )
    return run


def _text_grader(name: str) -> Scorer:
    if name not in GRADERS:
        known = ", ".join(f"`{known}`" for known in GRADERS)
        raise UsageError(
            f"unknown grader `{name}`: graders of text are {known}; a judge's verdicts come from"
            " `bench eval`",
            did_you_mean(name, GRADERS, "name one of them"),
        )
    return GRADERS[name]


def _by_one(run: Run, folder: Path, grader: Scorer) -> Run:
    if run.status != "done":
        raise UsageError(
            f"`{run.run_id}` is {run.status}, so its answers are not all there",
            f"finish it with `bench runs resume {run.run_id}`",
        )
    if not run.sampling:
        raise UsageError(
            f"`{run.run_id}` chose between given answers: it has no text for `{grader.name}`",
            "grade a run of a task that generates",
        )
    if _name(grader) in run.protocol_parts.get("graders", ()):
        return run
    _beside(folder, [grader])
    return run


def _by_its_task(run: Run, folder: Path, replacing: bool) -> Run:
    task = task_of(run)
    if is_lm_eval(task):
        # lm-eval's own versions are in the run's protocol already.
        return _anew(run, folder, task)
    changed = [one for one in task.scorers if _name(one) not in run.protocol_parts["graders"]]
    if run.status == "done" and changed and not replacing:
        if task.judge:
            raise UsageError(
                f"`{_name(changed[0])}` reads a judge's replies: it cannot come beside",
                f"`bench score {run.run_id} --replace` lets it read the saved ones",
            )
        _beside(folder, changed)
        return run
    return _under_protocol(_anew(run, folder, task), task)


def _anew(run: Run, folder: Path, task: Task) -> Run:
    """Grades by the task's graders as the run's own; those by all others stay beside."""
    try:
        measures = _measures(folder)
    except StoreError:
        # Not there yet, or damaged: this writes it anew, as it promises.
        measures = []
    own = {run.primary_metric: run.protocol_parts["graders"][0], **grades.own_graders(folder)}
    grades.set_aside(folder, _name(task.scorers[0]))
    result = (score_lm_eval if is_lm_eval(task) else score)(folder, task)
    grades.restore(folder)
    kept = grades.added_graders(folder)
    renamed = [replace(m, metric=own.get(m.metric, m.metric)) for m in measures]
    beside = [m for m in renamed if m.metric.partition(":")[0] in kept]
    write_measures(folder, (*result.measures, *beside))
    return replace(
        run,
        status="done",
        cause=None,
        error=None,
        finished_at=run.finished_at or runs.now(),
        n_samples=result.n_samples,
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        outputs_sha256=result.outputs_sha256,
    )


def _under_protocol(run: Run, task: Task) -> Run:
    """The run as the task's present version would have it: its prompts are hashed in the protocol,
    so that it shares a column with new runs only where those ask the same."""
    graders = [_name(scorer) for scorer in task.scorers]
    parts = {**run.protocol_parts, "version": task.version, "graders": graders}
    return replace(
        run,
        task_version=task.version,
        primary_metric=task.scorers[0].metric,
        protocol=fingerprint(parts),
        protocol_parts=parts,
    )


def _beside(folder: Path, graders: Sequence[Scorer]) -> None:
    """Add grades and measures by further graders, in place of earlier ones of their version."""
    found: dict[str, list[Scored]] = {_name(grader): [] for grader in graders}
    grades.add(folder, _rows(folder, graders, found))
    measures = [m for m in _measures(folder) if m.metric.partition(":")[0] not in found]
    for name, items in found.items():
        measures += [*summarise(name, items), *sampling_measures(f"{name}:", items)]
    write_measures(folder, tuple(measures))


def _rows(
    folder: Path, graders: Sequence[Scorer], found: dict[str, list[Scored]]
) -> Iterator[JSON]:
    """A grade for each answer and grader, which also goes to `found`."""
    for _, sample, completion in answers(folder):
        for grader in graders:
            grade = graded(grader, sample, completion)
            found[_name(grader)].append(scored(sample, completion, grade))
            yield grade_row(sample, completion, _name(grader), grade)


def _measures(folder: Path) -> list[Measure]:
    path = folder / runs.MEASURES
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"`{path}` cannot be read: {error}", f"`bench score {folder.name}` writes it anew"
        ) from error
    return [Measure(**value) for value in values]


def _name(scorer: Scorer) -> str:
    return f"{scorer.name}@{scorer.version}"
