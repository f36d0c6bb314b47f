"""What came of a search: its trials, the best recipe, and whether its model beats the base on
questions by which nothing was chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from harness import compare, evaluate, models, recipes, runs
from harness import train as training
from harness.checkpoints import trained_from
from harness.compare import Comparison
from harness.errors import BenchError, WorkerError
from harness.ingest import TRIALS
from harness.search import LOSS
from harness.session import Listener
from harness.trainer import CHECKPOINT
from harness.tuning import objective
from harness.tuning.drafting import Drafted
from harness.tuning.plan import BASE, Options, Plan
from harness.tuning.plots import PLOTS, draw
from harness.tuning.space import settings
from harness.tuning.study import Study, row
from harness.types import JSON, ModelSpec, Run

BEST = "best.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """trials: rows of table `trials`. best: one of them; None where no trial ran to its end.
    recipe: the file with its values. model: its name in the registry. comparison: it and the base.
    missing: plots that could not be drawn, and why. failure: what went wrong in the end."""

    run: Run
    study: str
    objective: str
    trials: tuple[JSON, ...]
    best: JSON | None = None
    recipe: Path | None = None
    model: str | None = None
    comparison: tuple[Comparison, ...] = ()
    plots: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    failure: BenchError | None = None


def report(
    home: Path, run: Run, study: Study, draft: Drafted, options: Options, listener: Listener
) -> Outcome:
    """Write down trials, best recipe and plots; compare the best model with the base."""
    folder, plan = runs.folder_of(home, run.run_id), draft.plan
    rows = _rows(study)
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    runs.write_atomically(folder / TRIALS, lines)
    done = Outcome(run=run, study=plan.study, objective=plan.search.objective, trials=tuple(rows))
    best = study.best()
    if best is None:
        return replace(done, failure=_nothing(rows))
    plots, missing = draw(study, folder / PLOTS, plan.search.objective)
    done = replace(
        done,
        best=next(one for one in rows if one["trial"] == best.number),
        recipe=_write_recipe(folder, plan, study, best, run),
        plots=tuple(plots),
        missing=tuple(missing),
    )
    return _judged(home, done, draft, options, listener)


def _rows(study: Study) -> list[JSON]:
    rows = [row(one, study.point(one.params)) for one in study.trials()]
    cut = {"cause": "killed", "error": "its worker was gone before its end"}
    rows += [{**row(one, study.point(one.params)), **cut} for one in study.cut()]
    return sorted(rows, key=lambda one: int(one["trial"]))


def _nothing(rows: Sequence[JSON]) -> WorkerError:
    causes = sorted({str(one["cause"]) for one in rows if one["cause"]})
    return WorkerError(
        f"none of {len(rows)} trials ran to its end ({', '.join(causes)})",
        '`bench sql "SELECT trial, cause, error FROM trials"` says why',
        cause=causes[0] if causes else "worker_error",
    )


def _write_recipe(folder: Path, plan: Plan, study: Study, best: FrozenTrial, run: Run) -> Path:
    """The recipe with the best values, which `bench train` takes."""
    point = study.point(best.params)
    _, values = recipes.written(str(folder / BASE), settings(point))
    about = (
        f"# Trial {best.number} of study {plan.study} ({run.run_id}):\n"
        f"# {plan.search.objective} {best.value:.6g} at step {best.user_attrs.get('best_step')}\n"
    )
    path = folder / BEST
    runs.write_atomically(path, about + yaml.safe_dump(values, sort_keys=False))
    recipes.read(str(path), {})
    return path


def _judged(
    home: Path, done: Outcome, draft: Drafted, options: Options, listener: Listener
) -> Outcome:
    """The best model beside the base, on the questions that are left."""
    plan, best = draft.plan, done.best
    assert best is not None
    base, spec = _models(home, plan, best)
    if options.register is not None:
        child = runs.read_manifest(runs.folder_of(home, str(best["child_run_id"])))
        training.register(home, child, base, options.register, listener)
        spec, done = models.model(options.register, home), replace(done, model=options.register)
    task = None if plan.search.objective == LOSS else objective.named(plan.search)
    pairs: list[tuple[str, str]] = []
    for tasks, half in objective.reported(draft.asked, task):
        asked = replace(options.evaluation, half=half, home=home)
        found = evaluate.evaluate([base, spec], tasks, asked, listener=listener)
        if failed := [one for one in found if one.status != "done"]:
            return replace(done, failure=_unfinished(failed[0]))
        size = len(tasks)
        pairs += [(a.run_id, b.run_id) for a, b in zip(found[:size], found[size:], strict=True)]
    if not pairs:
        listener.note("the recipe names no `tasks`, so the best model is compared with nothing")
        return done
    return replace(done, comparison=tuple(compare.of_pairs(home, pairs, listener.note)))


def _unfinished(run: Run) -> WorkerError:
    return WorkerError(
        f"the evaluation `{run.run_id}` {run.status}: {run.error}",
        "the same command goes on there",
        cause=run.cause or "worker_error",
    )


def _models(home: Path, plan: Plan, best: JSON) -> tuple[ModelSpec, ModelSpec]:
    """The base of the best trial, and what it became."""
    name = str(best["params"].get("model", plan.base.name))
    base = plan.base if name == plan.base.name else models.resolve(models.model(name, home))
    run_id = str(best["child_run_id"])
    place = runs.folder_of(home, run_id) / CHECKPOINT
    label = f"{plan.study}@{best['trial']}"
    return base, trained_from(base, place, name=label, run_id=run_id)


def as_json(done: Outcome) -> JSON:
    """The public form: `bench tune --json`."""
    told: dict[str, Any] = {
        "run_id": done.run.run_id,
        "status": done.run.status,
        "cause": done.run.cause,
        "study": done.study,
        "objective": done.objective,
        "trials": list(done.trials),
        "best": done.best,
        "recipe": None if done.recipe is None else str(done.recipe),
        "model": done.model,
        "comparison": [compare.as_json(one) for one in done.comparison],
        "plots": [str(path) for path in done.plots],
        "plots_missing": list(done.missing),
    }
    return told
