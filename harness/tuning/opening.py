"""The run that a trial is: its recipe, its data, its folder, opened before it trains."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from harness import models, recipes, runs, training_plan
from harness import train as training
from harness.recipes import Asked
from harness.search import LOSS
from harness.session import Listener
from harness.trainer import HELD_OUT, OVERLAP, POINTS, RECIPE, TRAIN
from harness.training_data import TrainingData
from harness.training_plan import Prepared
from harness.tuning.held_out import prompt_mark
from harness.tuning.places import Place
from harness.tuning.plan import BASE, Plan
from harness.tuning.scoring import Scoring
from harness.tuning.space import Point, settings
from harness.tuning.training_host import TrainingHost
from harness.types import JSON, Run, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a worker keeps from trial to trial. run_id: of the tuning run. scoring: None where the
    objective is a loss."""

    home: Path
    run_id: str
    plan: Plan
    place: Place
    host: TrainingHost
    scoring: Scoring | None
    data_root: Path | None
    listener: Listener

    @property
    def folder(self) -> Path:
        return runs.folder_of(self.home, self.run_id)


def prepared(bench: Bench, point: Point) -> tuple[Prepared, list[JSON] | None]:
    """The recipe of the trial; what it learns, where that is not what the others learn."""
    plan = bench.plan
    asked = recipes.read(str(bench.folder / BASE), settings(point))
    asked = replace(asked, name=plan.recipe)
    spec = plan.base
    if asked.shape.model != spec.name:
        spec = models.resolve(models.model(asked.shape.model, bench.home))
    recipe = replace(
        training_plan.resolved(asked, spec),
        # A trial that is cut off begins anew, so there is nothing to go on from.
        save_steps=0,
        keep_checkpoints=0,
    )
    learnt = _own_data(bench, asked) if plan.new_data else None
    ready = Prepared(
        asked=asked,
        recipe=recipe,
        spec=spec,
        data=TrainingData(),
        found=plan.found,
        flags=plan.flags,
        folder=bench.folder,
        key=f"{bench.run_id}/{point}",
    )
    return ready, learnt


def _own_data(bench: Bench, asked: Asked) -> list[JSON]:
    """Examples of the trial's own data, without those that its loss is measured on."""
    options = training_plan.Options(data_root=bench.data_root, home=bench.home)
    data, _, _ = training_plan.examples(asked, options, bench.listener)
    path = bench.folder / HELD_OUT
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    away = {prompt_mark(json.loads(line)) for line in lines}
    return [one.given for one in data.examples if prompt_mark(one.given) not in away]


def begin(bench: Bench, number: int, ready: Prepared, learnt: list[JSON] | None) -> tuple[Run, int]:
    """The run of the trial and its lock."""
    plan = bench.plan
    drawn = [str(one["path"]) for one in plan.drawn]
    run = replace(
        training.new_run(ready),
        key=f"{bench.run_id}/{number}",
        dataset=", ".join(drawn),
        dataset_revision=", ".join(str(one["revision"]) for one in plan.drawn) or None,
        n_samples=plan.examples if learnt is None else len(learnt),
        notes=f"trial {number} of {bench.run_id}",
    )
    with runs.draft(bench.home, "trial") as draft:
        files = {RECIPE: _written(draft / RECIPE, to_json(ready.recipe))}
        files[OVERLAP] = bench.folder / OVERLAP
        if looks(plan):
            save = "best" if plan.search.objective == LOSS else "all"
            asked: JSON = {"count": plan.search.evaluations, "save": save}
            asked["wait"] = not bench.place.beside
            files[POINTS] = _written(draft / POINTS, asked)
        links = {name: bench.folder / name for name in (TRAIN, HELD_OUT)}
        if learnt is not None:
            files[TRAIN] = draft / TRAIN
            lines = (json.dumps(one, ensure_ascii=True) + "\n" for one in learnt)
            files[TRAIN].write_text("".join(lines), encoding="utf-8")
            del links[TRAIN]
        there = {name: path for name, path in links.items() if path.exists()}
        return run, runs.create_with(bench.home, run, files, there)


def _written(path: Path, value: JSON) -> Path:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
    return path


def looks(plan: Plan) -> bool:
    """Whether the training has points; a single evaluation at its end needs none."""
    return plan.search.evaluations > 1 or plan.search.objective == LOSS
