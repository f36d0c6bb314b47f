"""The checkpoints of a training as points of a curve: evaluated, and drawn among its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import evaluate, midway, models, runs, train
from harness.session import Listener
from harness.stages import Stages
from harness.task import Task
from harness.trainer import CHECKPOINT, CHECKPOINTS
from harness.types import JSON, ModelSpec, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One checkpoint with its evaluations. step None: the final one."""

    model: str
    step: int | None
    runs: tuple[Run, ...]
    score: float


def points(
    home: Path,
    stages: Stages,
    trained: Run,
    asked: evaluate.Options,
    listener: Listener,
    *,
    checkpoints: bool,
) -> Iterator[Point]:
    """Each kept checkpoint on the recipe's tasks, then the final one on all. All of them are asked
    together: an engine that can serves them with one start. What was evaluated while the training
    ran is not asked again."""
    folder = runs.folder_of(home, trained.run_id)
    last = train.last_step(folder)
    final = models.model(stages.model, home)
    known = midway.evaluated(home, trained) if checkpoints else {}
    steps = [one for one in _kept(folder) if one[0] < last] if checkpoints else []
    new = [(step, path) for step, path in steps if not _complete(known.get(step), stages)]
    specs = [midway.checkpoint(stages, trained, step, path) for step, path in new]
    found = evaluate.evaluate([*specs, final], stages.domain, asked, listener=listener)
    last_runs = found[-len(stages.domain) :]
    protocols = {run.protocol for run in last_runs}
    of_step = {step: own for step, own in known.items() if {r.protocol for r in own} <= protocols}
    of_step |= _by_step(new, specs, stages.domain, found)
    for step in sorted(of_step):
        yield point(home, f"{stages.model}@{step}", step, of_step[step], stages)
    if stages.outside:
        last_runs += evaluate.evaluate([final], stages.outside, asked, listener=listener)
    yield point(home, final.name, None, last_runs, stages)


def _complete(found: Sequence[Run] | None, stages: Stages) -> bool:
    return found is not None and {run.task_id for run in found} == {t.id for t in stages.domain}


def _by_step(
    steps: Sequence[tuple[int, Path]],
    specs: Sequence[ModelSpec],
    domain: Sequence[Task],
    found: Sequence[Run],
) -> dict[int, tuple[Run, ...]]:
    size = len(domain)
    return {
        step: tuple(found[index * size : (index + 1) * size])
        for index, ((step, _), _) in enumerate(zip(steps, specs, strict=True))
    }


def _kept(folder: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints on the way, by step."""
    found = [
        (int(path.name.rpartition("-")[2]), path)
        for path in (folder / CHECKPOINTS).glob("checkpoint-*")
        if (path / "config.json").is_file() or (path / "adapter_config.json").is_file()
    ]
    return sorted(found)


def point(home: Path, model: str, step: int | None, found: Sequence[Run], stages: Stages) -> Point:
    domain = {one.id for one in stages.domain}
    scores = [
        runs.primary(home, run) for run in found if run.status == "done" and run.task_id in domain
    ]
    mean = sum(scores) / len(scores) if scores else 0.0
    return Point(model=model, step=step, runs=tuple(found), score=mean)


def write_curve(home: Path, trained: Run, points: Iterable[Point]) -> None:
    """The scores of the checkpoints as measures `eval/<task>` among the steps of the training."""
    last = train.last_step(runs.folder_of(home, trained.run_id))
    lines = [
        (
            last if point.step is None else point.step,
            f"eval/{run.task_id}",
            runs.primary(home, run),
        )
        for point in points
        for run in point.runs
    ]
    if midway.add_to_steps(home, trained, lines):
        # The history takes in a run again when its manifest is newer.
        runs.write_manifest(home, trained)


def weights(home: Path, trained: Run, point: Point) -> Path | None:
    """Where the weights of a point lie; None for a checkpoint that was not kept."""
    folder = runs.folder_of(home, trained.run_id)
    name = CHECKPOINT if point.step is None else f"{CHECKPOINTS}/checkpoint-{point.step}"
    return folder / name if (folder / name).is_dir() else None


def as_json(point: Point) -> JSON:
    asked = [
        {"task": run.task_id, "run_id": run.run_id, "status": run.status} for run in point.runs
    ]
    return {"model": point.model, "step": point.step, "score": point.score, "runs": asked}
