"""Everything that is checked before the first trial, and the folder that the trials work from.

tuning.json     the `Plan`: what every worker needs to know
base.yaml       the recipe that trials lay their values over, `extends` and `--set` already in it
train.jsonl     what trials learn; held_out.jsonl: what their loss is measured on
overlap.jsonl   as for a training
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness import evaluate, models, recipe_check, recipes, registry, room, runs, training_plan
from harness.errors import BenchError, UsageError
from harness.plan import fingerprint
from harness.recipes import Asked
from harness.search import LOSS, Choices, Search
from harness.session import Listener
from harness.trainer import HELD_OUT, OVERLAP, TRAIN
from harness.training_plan import Prepared
from harness.tuning import objective, used
from harness.tuning.space import Dimension, Point, corners, dimensions, settings, start, written
from harness.tuning.used import Tried
from harness.types import JSON, ModelSpec, to_json

TUNING = "tuning.json"
BASE = "base.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """settings: recipe fields by dotted path. trials, study: instead of the recipe's number and of
    its name. register: name of the best checkpoint in the registry. evaluation: how to ask."""

    settings: Mapping[str, str] = field(default_factory=dict)
    trials: int | None = None
    workers: int = 1
    study: str | None = None
    register: str | None = None
    evaluation: evaluate.Options = evaluate.Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tried. recipe: its name. asked: what makes this search another than one of the same
    name, part by part; key: hash of that. found: what `trainers.checking` found out. drawn: the
    sources of the data. examples: that are learnt. new_data: whether trials differ in their data.
    device, processes: of the recipe, which no search varies.
    """

    recipe: str
    study: str
    search: Search
    space: tuple[Dimension, ...]
    base: ModelSpec
    asked: JSON
    key: str
    found: JSON
    flags: tuple[str, ...]
    examples: int
    drawn: tuple[JSON, ...]
    new_data: bool
    device: str
    processes: int


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
    with training_plan.prepared(name, training, listener) as ready:
        trials = search.trials if options.trials is None else options.trials
        objective.check(search, ready.asked, ready.recipe, options.evaluation, ready.spec)
        _check_corners(name, options, space, search, ready)
        # The best one so far, and of each worker its trial's best and the one that is evaluated.
        own = replace(ready.recipe, save_steps=0)
        room.require(home, own, ready.spec, listener, copies=1 + 2 * options.workers)
        plan = _plan(name, options, search, space, ready)
        with runs.draft(home, "tune") as folder:
            plan = _write(folder, plan, ready)
            yield Drafted(plan=plan, asked=ready.asked, folder=folder, trials=trials)


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


def _check_corners(
    name: str, options: Options, space: Sequence[Dimension], search: Search, ready: Prepared
) -> None:
    """Every combination of ends must be a recipe, and every field must be used in one of them."""
    home = runs.home_folder(options.evaluation.home)
    specs = {ready.spec.name: ready.spec}
    tried = []
    for point in corners(space, search.seed):
        try:
            asked = recipes.read(name, {**options.settings, **settings(point)})
            spec = specs.get(asked.shape.model) or models.resolve(
                models.model(asked.shape.model, home)
            )
            specs[asked.shape.model] = spec
            recipe = training_plan.resolved(asked, spec)
            recipe_check.check(asked, recipe, spec)
        except BenchError as error:
            raise UsageError(
                f"the search reaches {written(point)}, and there: {error.message}", error.hint
            ) from None
        kept = int(ready.found.get("kept", 0))
        longest = int(ready.found.get("longest", 0))
        steps = training_plan.steps_of(recipe, kept)
        tried.append(Tried(point=point, recipe=recipe, steps=steps, longest=longest))
    for dimension in space:
        used.check(dimension, tried)


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
    with runs.writing(folder):
        shutil.copyfile(ready.folder / OVERLAP, folder / OVERLAP)
        given = [example.given for example in training_data_of(ready)]
        learnt, kept = (
            held_out(given, plan.search.held_out) if plan.search.objective == LOSS else (given, [])
        )
        digest = _write_lines(folder / TRAIN, learnt)
        if kept:
            digest += _write_lines(folder / HELD_OUT, kept)
        base = _base(ready.asked, ready.recipe.chat_template)
        (folder / BASE).write_text(yaml.safe_dump(base, sort_keys=False), encoding="utf-8")
    asked = {**plan.asked, "data": digest}
    done = replace(plan, asked=asked, key=fingerprint(asked), examples=len(learnt))
    (folder / TUNING).write_text(json.dumps(_plain(done), indent=2) + "\n", encoding="utf-8")
    return done


def training_data_of(ready: Prepared) -> list[Any]:
    from harness import training_data

    return list(training_data.written(ready.data.examples))


def _base(asked: Asked, chat_template: str) -> JSON:
    """The recipe as it is, in a file that lies elsewhere."""
    values = {k: v for k, v in asked.values.items() if k != "search"}
    if "chat_template" in values and values["chat_template"] not in ("model", "none"):
        values["chat_template"] = chat_template
    return values


def held_out(examples: Sequence[JSON], wanted: int | float) -> tuple[list[JSON], list[JSON]]:
    """What is learnt, and what is held out: a share below 1, or so many examples.

    Examples with one prompt stay together. Which are held out depends on the prompts alone.
    Raises UsageError where one of both would be empty.
    """
    count = round(wanted * len(examples)) if wanted < 1 else int(wanted)
    by_prompt: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        by_prompt.setdefault(prompt_mark(example), []).append(place)
    chosen: set[int] = set()
    for mark in sorted(by_prompt):
        if len(chosen) >= count:
            break
        chosen.update(by_prompt[mark])
    if not 0 < len(chosen) < len(examples):
        raise UsageError(
            f"`search.held_out: {wanted}` of {len(examples)} examples leaves "
            f"{len(examples) - len(chosen)} to learn and {len(chosen)} to measure the loss on",
            "such as 0.1",
        )
    return (
        [one for place, one in enumerate(examples) if place not in chosen],
        [one for place, one in enumerate(examples) if place in chosen],
    )


def prompt_mark(example: JSON) -> str:
    return hashlib.sha256(json.dumps(example["prompt"], sort_keys=True).encode()).hexdigest()


def _write_lines(path: Path, examples: Sequence[JSON]) -> str:
    """Write them, one a line; the digest of the file."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for example in examples:
            line = (json.dumps(example, ensure_ascii=True) + "\n").encode()
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def _plain(plan: Plan) -> JSON:
    found = {one.name: getattr(plan, one.name) for one in dataclasses.fields(plan)}
    return {
        **found,
        "search": plan.search.model_dump(mode="json"),
        "space": [dataclasses.asdict(one) for one in plan.space],
        "base": to_json(plan.base),
    }


def read(folder: Path) -> Plan:
    """The plan of a tuning run. Raises FileNotFoundError."""
    found = json.loads((folder / TUNING).read_text(encoding="utf-8"))
    space = [Dimension(**{**one, "choices": tuple(one["choices"])}) for one in found.pop("space")]
    return Plan(
        **{
            **found,
            "search": Search.model_validate(found["search"]),
            "space": tuple(space),
            "base": ModelSpec(**found["base"]),
            "flags": tuple(found["flags"]),
            "drawn": tuple(found["drawn"]),
        }
    )


def differences(old: JSON, new: JSON, prefix: str = "") -> list[str]:
    """Dotted names of what differs between two `Plan.asked`."""
    names = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


__all__ = ["Drafted", "Options", "Plan", "Point", "drafted", "read"]
