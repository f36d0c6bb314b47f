"""Everything that is checked before the first trial, and the files that trials work from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import ValidationError

from harness import (
    evaluate,
    models,
    recipe_check,
    recipes,
    registry,
    room,
    runs,
    training_data,
    training_plan,
)
from harness.errors import BenchError, UsageError
from harness.plan import fingerprint
from harness.recipes import Asked
from harness.search import LOSS, Choices, Search
from harness.session import Listener
from harness.trainer import HELD_OUT, OVERLAP, TRAIN
from harness.training_plan import Prepared
from harness.tuning import objective, studies, used
from harness.tuning.held_out import held_out
from harness.tuning.plan import BASE, Options, Plan, write
from harness.tuning.space import (
    Dimension,
    Point,
    corners,
    dimensions,
    settings,
    start,
    written,
)
from harness.tuning.used import Tried
from harness.types import JSON, ModelSpec, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """A search that may begin. folder: a draft of its files. trials: wanted in all."""

    plan: Plan
    asked: Asked
    folder: Path
    trials: int


@contextmanager
def drafted(name: str, options: Options, listener: Listener) -> Iterator[Drafted]:
    """Check everything; the draft vanishes with the context. Raises BenchError."""
    home = runs.home_folder(options.evaluation.home)
    search, space = _space(name, options)
    first = {**options.settings, **settings(start(space))}
    training = training_plan.Options(
        settings=first,
        register=options.register,
        data_root=options.evaluation.data_root,
        home=home,
    )
    _check_search(search, options)
    tried = _check_without_data(name, first, options, search, space, listener)
    with training_plan.prepared(name, training, listener) as ready:
        known = [_with_found(one, ready.found) for one in tried]
        for dimension in space:
            used.check(dimension, known)
        plan = _plan(name, options, search, space, ready)
        with runs.draft(home, "tune") as folder:
            yield Drafted(
                plan=_write(folder, plan, ready),
                asked=ready.asked,
                folder=folder,
                trials=search.trials if options.trials is None else options.trials,
            )


def _check_without_data(
    name: str,
    first: Mapping[str, str],
    options: Options,
    search: Search,
    space: Sequence[Dimension],
    listener: Listener,
) -> list[Tried]:
    """What can be known before data are read; the corners of the space."""
    home = runs.home_folder(options.evaluation.home)
    studies.check_name(options.study or Path(name).stem)
    asked = recipes.read(name, first)
    spec = models.resolve(models.model(asked.shape.model, home))
    recipe = training_plan.resolved(asked, spec)
    recipe_check.check(asked, recipe, spec)
    if spec.adapter is not None:
        raise UsageError(
            f"`{spec.name}` is an adapter on `{spec.path}`, and trials share whole weights",
            "merge it first (peft: `merge_and_unload`) and register the merged folder",
        )
    for dimension in space:
        used.check_field(dimension.path)
    tried = _corners(name, options, space, search, {asked.shape.model: spec})
    for dimension in space:
        used.check(dimension, tried)
    objective.check(search, asked, recipe, options.evaluation, spec)
    # The best one so far, and of each worker its trial's best and the one that is evaluated.
    copies = 1 + 2 * options.workers
    room.require(home, replace(recipe, save_steps=0), spec, listener, copies=copies)
    return tried


def _space(name: str, options: Options) -> tuple[Search, list[Dimension]]:
    """The search before the recipe itself is checked, which may leave searched fields out."""
    path, values = recipes.written(name, options.settings)
    given = values.get("search")
    if given is None:
        raise UsageError(
            f"the recipe `{name}` has no `search`, so there is nothing to tune",
            "docs/tuning.md shows one",
        )
    try:
        search = Search.model_validate(given)
    except ValidationError as error:
        raise recipes.usage_error(error, Search, f"`search` of {path}") from None
    methods = _methods(values, search)
    shapes = [recipes.shape_of(registry.trainer(method)) for method in methods]
    return search, dimensions(search, shapes, str(path))


def _methods(values: JSON, search: Search) -> list[str]:
    varied = search.space.get("method")
    if isinstance(varied, Choices):
        return [str(one) for one in varied.choices]
    return [str(values.get("method"))]


def _check_search(search: Search, options: Options) -> None:
    _check_counts(search, options)
    _check_ends(search)
    needed = {"gp": ("torch", "scipy"), "qmc": ("scipy",)}.get(search.sampler, ())
    for module in needed:
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"`search.sampler: {search.sampler}` needs `{module}`, which is not installed",
                f"`pip install {module}`, or `sampler: tpe`",
            )


def _check_counts(search: Search, options: Options) -> None:
    counts: dict[str, int | None] = {"search.trials": search.trials}
    counts |= {"search.evaluations": search.evaluations}
    counts |= {"search.min_resource": search.min_resource}
    counts |= {"search.patience": search.patience, "search.questions": search.questions}
    counts |= {"--trials": options.trials, "--workers": options.workers}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"`{name}: {value}` is below 1", "use 1 or more")
    if search.reduction_factor < 2:
        raise UsageError(
            f"`search.reduction_factor: {search.reduction_factor}` keeps every trial", "such as 3"
        )
    if search.min_delta < 0:
        raise UsageError(f"`search.min_delta: {search.min_delta}` is below 0", "0, or a little")
    if search.questions is not None and search.objective == LOSS:
        raise UsageError(
            f"`search.questions: {search.questions}` has no meaning for `objective: loss`",
            "leave it out, or take one of the recipe's tasks as the objective",
        )


def _check_ends(search: Search) -> None:
    """Whether the pruner and the patience can ever end a trial."""
    if search.pruner != "none" and search.min_resource >= search.evaluations:
        raise UsageError(
            f"`search.pruner: {search.pruner}` would never end a trial: it first looks after "
            f"{search.min_resource} evaluation(s), and a trial has {search.evaluations}",
            "raise `search.evaluations`, or `pruner: none`",
        )
    if search.patience is not None and search.patience >= search.evaluations:
        raise UsageError(
            f"`search.patience: {search.patience}` would never end a trial of "
            f"{search.evaluations} evaluation(s)",
            "use a smaller patience, or leave it out",
        )
    if search.min_delta and search.patience is None:
        raise UsageError("`search.min_delta` has no meaning without `patience`", "`patience: 3`")


def _corners(
    name: str,
    options: Options,
    space: Sequence[Dimension],
    search: Search,
    specs: dict[str, ModelSpec],
) -> list[Tried]:
    """Combinations of the ends of all fields, each of which must be a recipe."""
    tried = []
    for point in corners(space, search.seed):
        try:
            tried.append(_tried(name, options, point, specs))
        except BenchError as error:
            raise UsageError(
                f"the search reaches {written(point)}, and there: {error.message}", error.hint
            ) from None
    return tried


def _tried(name: str, options: Options, point: Point, specs: dict[str, ModelSpec]) -> Tried:
    asked = recipes.read(name, {**options.settings, **settings(point)})
    model = asked.shape.model
    if model not in specs:
        home = runs.home_folder(options.evaluation.home)
        specs[model] = models.resolve(models.model(model, home))
    recipe = training_plan.resolved(asked, specs[model])
    recipe_check.check(asked, recipe, specs[model])
    return Tried(point=point, recipe=recipe)


def _with_found(one: Tried, found: JSON) -> Tried:
    """The same, now that the data are known."""
    steps = training_plan.steps_of(one.recipe, int(found.get("kept", 0)))
    return replace(one, steps=steps, longest=int(found.get("longest", 0)))


def _plan(
    name: str, options: Options, search: Search, space: Sequence[Dimension], ready: Prepared
) -> Plan:
    asked: JSON = {
        "recipe": {k: v for k, v in ready.asked.values.items() if k not in _NOT_ASKED},
        "search": search.model_dump(mode="json", exclude={"trials"}),
        "model": ready.spec.fingerprint,
        "evaluation": _evaluation(options.evaluation, ready.spec),
        "data": "",
    }
    return Plan(
        recipe=ready.asked.name,
        study=options.study or ready.asked.name,
        search=search,
        space=tuple(space),
        base=ready.spec,
        asked=asked,
        key="",
        found=ready.found,
        flags=ready.flags,
        examples=0,
        drawn=tuple(to_json(one) for one in ready.data.drawn),
        new_data=any(_is_of_data(one.path) for one in space),
        device=ready.recipe.device,
        processes=ready.recipe.num_processes,
    )


_NOT_ASKED = ("search", "description", "source", "extends")


def _is_of_data(path: str) -> bool:
    return path.partition(".")[0] in ("data", "method")


def _evaluation(asked: evaluate.Options, spec: ModelSpec) -> JSON:
    """What makes scores of one study comparable."""
    engine, found = evaluate.engine_settings(spec, asked)
    about = ("limit", "shots", "samples", "temperature", "max_tokens", "seed", "chat", "judge")
    own = {name: getattr(asked, name) for name in (*about, "offline_sample")}
    return {"engine": engine, "settings": found, **own}


def _write(folder: Path, plan: Plan, ready: Prepared) -> Plan:
    """The files of a search; the plan with what is known once they are there."""
    learnt = list(training_data.written(ready.data.examples))
    kept: list[JSON] = []
    if plan.search.objective == LOSS:
        learnt, kept = held_out(learnt, plan.search.held_out)
    with runs.writing(folder):
        shutil.copyfile(ready.folder / OVERLAP, folder / OVERLAP)
        digest = _write_lines(folder / TRAIN, learnt)
        if kept:
            digest += _write_lines(folder / HELD_OUT, kept)
        base = _base(ready.asked, ready.recipe.chat_template)
        (folder / BASE).write_text(yaml.safe_dump(base, sort_keys=False), encoding="utf-8")
        asked = {**plan.asked, "data": digest}
        done = replace(plan, asked=asked, key=fingerprint(asked), examples=len(learnt))
        write(done, folder)
    return done


def _base(asked: Asked, chat_template: str) -> JSON:
    """The recipe as it is, in a file that lies elsewhere."""
    values = {k: v for k, v in asked.values.items() if k != "search"}
    if "chat_template" in values and values["chat_template"] not in ("model", "none"):
        values["chat_template"] = chat_template
    return values


def _write_lines(path: Path, examples: Sequence[JSON]) -> str:
    """Write them, one a line; the digest of the file."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for example in examples:
            line = (json.dumps(example, ensure_ascii=True) + "\n").encode()
            digest.update(line)
            file.write(line)
    return digest.hexdigest()
