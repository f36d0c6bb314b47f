"""What a training needs before it starts: recipe, data and draft of its folder, all checked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import models, overlap, recipe_check, recipes, registry, runs, training_data
from harness.errors import DataError, UsageError, WorkerError
from harness.model_registry import NAME
from harness.plan import fingerprint
from harness.recipes import Asked
from harness.session import Listener, Silent
from harness.trainer import OVERLAP, RECIPE, TRAIN
from harness.training_data import TrainingData
from harness.training_process import check
from harness.types import JSON, ModelSpec, Recipe, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """settings: recipe fields by dotted path, as `--set` gives them. register: name under which
    the checkpoint joins the model registry. fresh: a new run where one could go on."""

    settings: Mapping[str, str] = field(default_factory=dict)
    register: str | None = None
    fresh: bool = False
    data_root: Path | None = None
    home: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A recipe that may start. folder: a draft with its files. found: by `trainers.checking`."""

    asked: Asked
    recipe: Recipe
    spec: ModelSpec
    data: TrainingData
    found: JSON
    flags: tuple[str, ...]
    folder: Path
    key: str


@contextmanager
def prepared(name: str, options: Options, listener: Listener) -> Iterator[Prepared]:
    """Everything that can be found out without the weights; its draft vanishes with the context."""
    home = runs.home_folder(options.home)
    asked = recipes.read(name, options.settings)
    spec = models.resolve(models.model(asked.shape.model, home))
    recipe = resolved(asked, spec)
    recipe_check.check(asked, recipe, spec)
    check_name(options.register, home)
    data, flags, found = examples(asked, options, listener)
    with runs.draft(home, "train") as draft:
        digest = _write(draft, recipe, data, found)
        checked = _checked(home, draft, recipe)
        key = fingerprint({"model": spec.fingerprint, "recipe": to_json(recipe), "data": digest})
        yield Prepared(
            asked=asked,
            recipe=recipe,
            spec=spec,
            data=data,
            found=checked,
            flags=flags,
            folder=draft,
            key=key,
        )


def resolved(asked: Asked, spec: ModelSpec) -> Recipe:
    """The recipe for a trainer, with the place of its chat template. Raises UsageError."""
    recipe = asked.resolved(spec)
    own = recipe.chat_template
    if own == "model":
        recipe = replace(recipe, chat_template=spec.chat_template)
    elif own != "none":
        # Counted from the recipe's folder, where it is there: some recipes bring their template.
        beside = asked.path.parent / own
        found = beside if beside.is_file() else Path(own).expanduser()
        recipe = replace(recipe, chat_template=os.path.abspath(found))
    recipe_check.template_file(recipe)
    return recipe


def check_name(name: str | None, home: Path) -> None:
    """A name that is taken by something else than a training run is refused at the start."""
    if name is None:
        return
    if not NAME.fullmatch(name):
        raise UsageError(
            f"`--register {name}` cannot be the name of a model",
            "use letters, digits, `.`, `_` and `-`, starting with a letter or digit",
        )
    book = models.entries(home)
    if name in book and (not book[name].local or book[name].entry.run is None):
        raise UsageError(
            f"`{name}` is in the model registry already", "choose another name for `--register`"
        )


def examples(
    asked: Asked, options: Options, listener: Listener
) -> tuple[TrainingData, tuple[str, ...], list[JSON]]:
    """Examples, flags of the run, and the questions of its tasks that were found in them."""
    if asked.trainer.name == "command" and asked.shape.data is None:
        return TrainingData(), (), []
    data = training_data.resolve(asked, options.data_root)
    tasks = registry.tasks(",".join(asked.shape.tasks)) if asked.shape.tasks else ()
    policy = asked.shape.data.overlap
    if policy == "skip" or not tasks:
        return data, ("overlap_unchecked",) if tasks else (), []
    texts = ((example.question, example.answers) for example in data.examples)
    found = overlap.overlaps(tasks, texts, data_root=options.data_root)
    if found and policy == "refuse":
        raise _overlap_error(found)
    if found:
        listener.note(f"the training data hold {len(found)} question(s) of its tasks")
    flags = [f"overlap={len(found)}"] if found else []
    for task in tasks:
        if mismatch := training_data.template_mismatch(asked, task, options.data_root):
            listener.note(f"`{task.id}` asks otherwise than the training: {mismatch}")
            flags.append(f"template_mismatch={task.id}")
    return data, tuple(flags), [overlap.as_row(one) for one in found]


def _overlap_error(found: list[overlap.Overlap]) -> DataError:
    exact = sum(one.kind == "exact" for one in found)
    first = found[0]
    return DataError(
        f"the training data hold {len(found)} question(s) that the model will be judged on, "
        f"{exact} of them whole; example {first.example} holds `{first.sample_id}`",
        "take them out, judge on another task, or `--set data.overlap=allow`",
    )


def _write(draft: Path, recipe: Recipe, data: TrainingData, found: list[JSON]) -> str:
    """The files of a training in its draft; the digest of its examples."""
    digest = hashlib.sha256()
    with runs.writing(draft):
        (draft / RECIPE).write_text(json.dumps(to_json(recipe), indent=2) + "\n", encoding="utf-8")
        with (draft / TRAIN).open("wb") as file:
            for example in training_data.written(data.examples):
                line = (json.dumps(example, ensure_ascii=True) + "\n").encode()
                digest.update(line)
                file.write(line)
        with (draft / OVERLAP).open("w", encoding="utf-8") as text:
            text.writelines(json.dumps(row) + "\n" for row in found)
    return digest.hexdigest()


def _checked(home: Path, draft: Path, recipe: Recipe) -> JSON:
    if recipe.method == "command":
        return {}
    try:
        return check(recipe, draft)
    except WorkerError as error:
        if error.cause == "usage":
            raise UsageError(error.message, error.hint) from None
        if error.cause == "bad_data":
            raise DataError(error.message, error.hint) from None
        kept = home / "runs" / "last_check.log"
        shutil.copyfile(draft / runs.WORKER_LOG, kept)
        raise WorkerError(error.message, f"the whole log is in {kept}", cause=error.cause) from None


def steps_of(recipe: Recipe, examples: int) -> int:
    """Optimiser steps that a training will take, 0 where that is not known."""
    ends = [] if recipe.max_steps is None else [recipe.max_steps]
    if recipe.epochs is not None and examples:
        # Methods that compare completions of one prompt count completions in their batches.
        samples = examples * int(recipe.params.get("num_generations") or 1)
        a_pass = -(-samples // recipe.global_batch_size)
        ends.append(round(recipe.epochs * a_pass))
    return min(ends) if ends else 0


def preview(name: str, options: Options, listener: Listener | None = None) -> JSON:
    """What `--dry-run` shows: the recipe as resolved, its data, and what was found out."""
    with prepared(name, options, listener or Silent()) as ready:
        return {
            "recipe": ready.asked.name,
            "resolved": to_json(ready.recipe),
            "accumulation": ready.recipe.accumulation,
            "steps": steps_of(ready.recipe, int(ready.found.get("kept", 0))),
            "data": [to_json(one) for one in ready.data.drawn],
            "check": ready.found,
            "flags": list(ready.flags),
            "first_example": ready.data.examples[0].given if ready.data.examples else None,
        }
