"""A training run: from a recipe to a checkpoint that is registered, or to a failure with a cause.

Everything that can be wrong is looked for before the run folder is made. The same command finds the
run again and goes on from its last checkpoint; one that is done is shown, not repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import models, overlap, recipe_check, recipes, registry, runs, store, training_data
from harness.errors import BenchError, DataError, UsageError, WorkerError
from harness.outcome import not_trained
from harness.plan import fingerprint
from harness.provenance import provenance
from harness.recipes import Asked
from harness.session import Listener, Silent
from harness.trainer import CHECKPOINT, OVERLAP, RECIPE, TRAIN
from harness.training_data import TrainingData
from harness.training_process import Meeting, StepReader, check, gpu_count, train
from harness.types import JSON, ModelSpec, Recipe, Run, RunStatus, to_json


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


def train_recipe(name: str, options: Options, listener: Listener | None = None) -> Run:
    """Train what the recipe says; the run as it ended, failed or not.

    Raises BenchError where nothing was started.
    """
    told = listener or Silent()
    home = runs.home_folder(options.home)
    with prepared(name, options, told) as ready, ExitStack() as stack:
        stack.callback(store.sync, home, say=told.note)
        run, lock = _begin(home, ready, options, told, stack)
        if lock is None:
            return _registered(home, run, ready.spec, options, told)
        ended = _work(home, run, ready, lock, told)
        return _registered(home, ended, ready.spec, options, told)


@contextmanager
def prepared(name: str, options: Options, listener: Listener) -> Iterator[Prepared]:
    """Everything that can be found out without the weights; its draft vanishes with the context."""
    home = runs.home_folder(options.home)
    asked = recipes.read(name, options.settings)
    spec = models.resolve(models.model(asked.shape.model, home))
    recipe = _resolved(asked, spec)
    recipe_check.check(asked, recipe, spec)
    _check_name(options.register, home)
    data, flags, found = _data(asked, options, listener)
    folder = runs.runs_folder(home)
    with runs.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".train-", dir=folder))
    try:
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
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _resolved(asked: Asked, spec: ModelSpec) -> Recipe:
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


def _check_name(name: str | None, home: Path) -> None:
    """A name that is taken by something else than a training run is refused at the start."""
    if name is None:
        return
    from harness.model_registry import NAME

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


def _data(
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
        return check(draft)
    except WorkerError as error:
        if error.cause == "usage":
            raise UsageError(error.message, error.hint) from None
        if error.cause == "bad_data":
            raise DataError(error.message, error.hint) from None
        kept = home / "runs" / "last_check.log"
        shutil.copyfile(draft / runs.WORKER_LOG, kept)
        raise WorkerError(error.message, f"the whole log is in {kept}", cause=error.cause) from None


def _begin(
    home: Path, ready: Prepared, options: Options, listener: Listener, stack: ExitStack
) -> tuple[Run, int | None]:
    """The run to go on with or a new one, with its lock; one that is done already, without."""
    asked = _new_run(ready)
    for other in () if options.fresh else runs.earlier(home, asked):
        if other.status == "done":
            listener.note(f"trained already: {other.run_id} (--fresh trains anew)")
            return other, None
        if other.status == "running":
            raise UsageError(
                f"`{other.run_id}` is being trained by another process",
                "wait for it, or train a second time with `--fresh`",
            )
        lock = runs.lock(runs.folder_of(home, other.run_id))
        if lock is not None:
            stack.callback(os.close, lock)
            listener.note(f"going on with {other.run_id}")
            again = replace(other, status="running", cause=None, error=None, argv=asked.argv)
            return runs.write_manifest(home, again), lock
    files = {path.name: path for path in ready.folder.iterdir() if path.name != runs.WORKER_LOG}
    lock = runs.create_with(home, asked, files)
    stack.callback(os.close, lock)
    return asked, lock


def _new_run(ready: Prepared) -> Run:
    origin, recipe, spec = provenance(), ready.recipe, ready.spec
    return Run(
        run_id=runs.new_run_id("train", spec.name, ready.asked.name),
        kind="train",
        status="running",
        model=spec.name,
        model_path=spec.path,
        model_revision=spec.revision,
        model_fingerprint=spec.fingerprint,
        parent=spec.parent,
        dataset=", ".join(one.path for one in ready.data.drawn),
        dataset_revision=", ".join(one.revision for one in ready.data.drawn) or None,
        n_samples=len(ready.data.examples),
        engine="trainer",
        engine_version=ready.found.get("packages", {}).get("trl", ""),
        engine_stats={"check": {k: v for k, v in ready.found.items() if k != "packages"}},
        dtype={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[recipe.precision],
        recipe={
            "name": ready.asked.name,
            "asked": ready.asked.values,
            "resolved": to_json(recipe),
            "tasks": list(ready.asked.shape.tasks),
            "data": [to_json(one) for one in ready.data.drawn],
        },
        seed=recipe.seed,
        started_at=runs.now(),
        device=str(ready.found.get("device", "")),
        gpus=0 if recipe.device == "cpu" else min(gpu_count(), recipe.num_processes),
        prompt_tokens=int(ready.found.get("tokens", 0)),
        git_commit=origin.git_commit,
        git_dirty=origin.git_dirty,
        packages={**origin.packages, **ready.found.get("packages", {})},
        argv=origin.argv,
        flags=ready.flags,
        key=ready.key,
    )


def _work(home: Path, run: Run, ready: Prepared, lock: int, listener: Listener) -> Run:
    """Train, and write down how it ended."""
    folder = runs.folder_of(home, run.run_id)
    begun = time.monotonic()
    progress = _Progress(run, ready, listener)
    cpu = ready.recipe.device == "cpu" or gpu_count() == 0
    try:
        if not (folder / CHECKPOINT).is_dir():  # or it was killed right before its end
            meeting = meeting_of(ready.asked)
            train(ready.recipe, folder, meeting, cpu=cpu, hold=[lock], tell=progress.step)
        if not (folder / CHECKPOINT).is_dir():
            raise WorkerError(
                f"the trainer ended and left no `{CHECKPOINT}/`",
                f"the whole log is in {folder / runs.WORKER_LOG}",
                cause="no_checkpoint",
            )
    except KeyboardInterrupt:
        _ended(home, run, begun, WorkerError("interrupted by the user", cause="interrupted"))
        raise
    except BenchError as error:
        listener.note(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return _ended(home, run, begun, error)
    done = replace(run, flags=(*run.flags, *not_trained(folder, ready.asked.trainer)))
    return _ended(home, done, begun, None)


def meeting_of(asked: Asked) -> Meeting:
    """Where several machines meet, by the recipe or else by the environment."""
    shape, usual = asked.shape, Meeting()
    rank = shape.machine_rank
    port = shape.main_process_port
    return Meeting(
        rank=int(os.environ.get("NODE_RANK", usual.rank)) if rank is None else rank,
        address=shape.main_process_ip or os.environ.get("MASTER_ADDR", usual.address),
        port=int(os.environ.get("MASTER_PORT", usual.port)) if port is None else port,
    )


class _Progress:
    """Tells a listener how far a training is, as an evaluation does."""

    def __init__(self, run: Run, ready: Prepared, listener: Listener) -> None:
        self.run, self.listener = run, listener
        self.total = steps_of(ready.recipe, int(ready.found.get("kept", 0)))
        self.tokens = 0

    def step(self, measures: JSON) -> None:
        done = int(measures["step"])
        counts = {"done": done, "total": max(self.total, done), "prompt_tokens": 0}
        counts["completion_tokens"] = 0
        self.listener.progress(f"{self.run.model} {self.run.kind}", counts)


def steps_of(recipe: Recipe, examples: int) -> int:
    """Optimiser steps that a training will take, 0 where that is not known."""
    ends = [] if recipe.max_steps is None else [recipe.max_steps]
    if recipe.epochs is not None and examples:
        a_pass = -(-examples // recipe.global_batch_size)
        ends.append(round(recipe.epochs * a_pass))
    return min(ends) if ends else 0


def _ended(home: Path, run: Run, begun: float, error: BenchError | None) -> Run:
    status: RunStatus = "done"
    cause = None
    if error is not None:
        cause = error.cause if isinstance(error, WorkerError) else "storage"
        status = "interrupted" if cause == "interrupted" else "failed"
    ended = replace(
        run,
        status=status,
        cause=cause,
        error=error.message if error is not None else None,
        finished_at=runs.now(),
        seconds=round(run.seconds + time.monotonic() - begun, 3),
    )
    return runs.write_manifest(home, ended)


def _registered(home: Path, run: Run, spec: ModelSpec, options: Options, listener: Listener) -> Run:
    """The checkpoint in the model registry, with its parent and its run."""
    if options.register is None or run.status != "done":
        return run
    checkpoint = runs.folder_of(home, run.run_id) / CHECKPOINT
    entry: JSON = {"path": str(checkpoint), "parent": spec.name, "run": run.run_id}
    if (checkpoint / "adapter_config.json").exists():
        base = {"path": spec.path, "adapter": str(checkpoint)}
        entry |= base | ({"revision": spec.revision} if spec.revision else {})
        if spec.revision and os.path.isabs(spec.path):
            entry["path"] = spec.name.partition("@")[0]
    models.add(options.register, entry, home, replace=True)
    listener.note(f"registered as `{options.register}`, trained from `{spec.name}`")
    return run


def result_json(home: Path, run: Run, registered: str | None) -> JSON:
    """The public form of a result: `bench train --json`."""
    folder = runs.folder_of(home, run.run_id)
    checkpoint = folder / CHECKPOINT
    return {
        "run_id": run.run_id,
        "status": run.status,
        "cause": run.cause,
        "checkpoint": str(checkpoint) if checkpoint.is_dir() else None,
        "steps": last_step(folder),
        "model": registered if run.status == "done" else None,
    }


def last_step(folder: Path) -> int:
    return max((int(step["step"]) for step in StepReader(folder).new()), default=0)


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
