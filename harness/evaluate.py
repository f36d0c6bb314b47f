"""Evaluate models on tasks: plan → infer → score → store, each step in a module of its own.

This module holds the options, checks and plans everything that needs no model, and then gives
each model to a `Session`; models that one engine can serve are asked together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import runs, store
from harness.bridge.planning import plan_lm_eval
from harness.embedding_options import check_embedding_options, check_layers, own_embedding
from harness.engine_choice import automatic
from harness.engines.base import SETTINGS, parse_settings
from harness.errors import UsageError, did_you_mean
from harness.halves import Half
from harness.hosting import find, place
from harness.judgements import Appointed
from harness.judging import check_server, difficulties, judge_for
from harness.lm_eval_task import is_lm_eval
from harness.models import history_rows
from harness.models import models as find_models
from harness.plan import Plan, adjusted, write_plan
from harness.questions import questions
from harness.registry import task_of
from harness.registry import tasks as find_tasks
from harness.session import Listener, Session, Silent
from harness.sharing import groups
from harness.task import Task
from harness.together import evaluate_together, finish
from harness.types import JSON, ModelSpec, Run

RAY = "ray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to evaluate; None means what the task's protocol or the registry says.

    samples, temperature, max_tokens: instead of the published sampling. seed: of few-shot draws
    and of sampling. chat: ask in the model's chat template. judge: model or file of the judge, for
    tasks that need one. offline_sample: ask the few questions that ship with each task instead of
    the benchmark. half: ask only the questions of one half (`harness.halves`). settings: the
    engine's, as `--set` has them. data_root: BENCH_DATA_ROOT for None.
    replicas, ray_address: settings of their own; engine `ray` is the model's own engine, in as many
    replicas as there is room for.
    prompts, layers, pooling, reduction: for tasks that take activations, instead of theirs.
    """

    engine: str = "auto"
    limit: int | None = None
    shots: int | None = None
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    chat: bool = False
    judge: str | None = None
    fresh: bool = False
    offline_sample: bool = False
    half: Half | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    replicas: int | None = None
    ray_address: str | None = None
    prompts: str | None = None
    layers: str | None = None
    pooling: str | None = None
    reduction: str | None = None
    data_root: Path | None = None
    home: Path | None = None


def evaluate(
    models: str | Sequence[str] | Sequence[ModelSpec],
    tasks: str | Sequence[str] | Sequence[Task],
    options: Options | None = None,
    *,
    listener: Listener | None = None,
    **changes: Any,
) -> list[Run]:
    """Evaluate every model on every task; one run for each pair, in that order.

    models, tasks: names, groups and files, or models and tasks as they are.
    changes: fields of `Options`, as in `evaluate("Tiny", "arithmetic", limit=20)`. A run that was
    interrupted goes on where it stopped, and one that is done already is returned as it is, unless
    `fresh`. A run that fails does not stop the others: look at its `status` and `cause`.
    Raises BenchError for what can be known before a model is started.
    """
    options = replace(options or Options(), **changes)
    home = runs.home_folder(options.home)
    with planned(models, tasks, options) as (specs, plans):
        finished: dict[str, list[Run]] = {}
        for group in groups([(spec, *engine_settings(spec, options)) for spec in specs]):
            sessions = [
                Session(
                    home,
                    spec,
                    engine,
                    settings,
                    seed=options.seed,
                    fresh=options.fresh,
                    listener=listener or Silent(),
                )
                for spec, engine, settings in group
            ]
            evaluate_together(sessions, plans)
            finished |= {session.spec.name: session.results() for session in sessions}
        store.record_models(home, history_rows(home))
        return [run for spec in specs for run in finished[spec.name]]


def resume(wanted: str, home: Path | None = None, listener: Listener | None = None) -> Run:
    """Finish the run with this id (or its unique beginning or end) as it was asked.

    Raises UsageError where the weights or the task are no longer those that it began with.
    """
    home = runs.home_folder(home)
    run = runs.find(home, wanted)
    if run.status == "done":
        return run
    if run.kind != "eval":
        raise UsageError(
            f"`{run.run_id}` is of kind {run.kind}", "repeat its command: it goes on by itself"
        )
    spec = place(find(run.model, home, run.engine), run.engine, run.engine_settings)
    if spec.fingerprint != run.model_fingerprint:
        raise UsageError(
            f"the weights of `{run.model}` have changed since `{run.run_id}` began",
            "evaluate the model anew with `bench eval`",
        )
    task = task_of(run)
    if task.version != run.task_version:
        raise UsageError(
            f"`{task.id}` is at version {task.version}, the run began with {run.task_version}",
            "evaluate the model anew with `bench eval`",
        )
    session = Session(
        home, spec, run.engine, run.engine_settings, seed=run.seed, listener=listener or Silent()
    )
    return finish(session, run, task)


@contextmanager
def planned(
    models: str | Sequence[str] | Sequence[ModelSpec],
    tasks: str | Sequence[str] | Sequence[Task],
    options: Options,
) -> Iterator[tuple[list[ModelSpec], list[Plan]]]:
    """Everything that can be checked and prepared without a model; the plans are drafts that
    vanish with the context."""
    home = runs.home_folder(options.home)
    if options.data_root is None and (root := os.environ.get("BENCH_DATA_ROOT")):
        options = replace(options, data_root=Path(root))
    found = _models(models, home, options.engine)
    specs = [place(spec, *engine_settings(spec, options)) for spec in found]
    chosen = [_asked_task(task, options) for task in _tasks(tasks)]
    _check_options(chosen, options)
    for spec in specs:
        check_layers(chosen, spec)
    with runs.draft(home, "plan") as drafts:
        plans = [_plan(task, options, drafts / f"{i}.jsonl") for i, task in enumerate(chosen)]
        # Only its plan tells whether a task of lm-eval generates.
        _check_options([plan.task for plan in plans], options)
        yield specs, plans


def engine_settings(spec: ModelSpec, options: Options) -> tuple[str, JSON]:
    """The engine for a model and its checked settings; raises UsageError for what it has not."""
    python = options.settings.get("python", "")
    own = spec.engine or ("openai" if spec.base_url else automatic(spec, python))
    name = options.engine if options.engine not in ("auto", RAY) else own
    settings = dict(options.settings)
    if options.engine == RAY:
        settings = {"replicas": "0", **settings}
    for key, value in (("replicas", options.replicas), ("ray_address", options.ray_address)):
        if value is not None:
            settings[key] = str(value)
    if name not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise UsageError(
            f"unknown engine `{name}`", did_you_mean(name, [*SETTINGS, RAY], f"one of {known}")
        )
    return name, parse_settings(name, settings)


def _models(
    wanted: str | Sequence[str] | Sequence[ModelSpec], home: Path, engine: str
) -> list[ModelSpec]:
    if isinstance(wanted, str):
        return find_models(wanted, home, lambda name: find(name, home, engine))
    given = [one for one in wanted if isinstance(one, ModelSpec)]
    named = ",".join(one for one in wanted if isinstance(one, str))
    return [*given, *(_models(named, home, engine) if named else [])]


def _tasks(wanted: str | Sequence[str] | Sequence[Task]) -> tuple[Task, ...]:
    if isinstance(wanted, str):
        return find_tasks(wanted)
    given = tuple(one for one in wanted if isinstance(one, Task))
    named = [one for one in wanted if isinstance(one, str)]
    return (*given, *(find_tasks(",".join(named)) if named else ()))


def _asked_task(task: Task, options: Options) -> Task:
    if is_lm_eval(task):
        _require_honoured(task, options)
    if task.embedding is not None:
        return own_embedding(task, options)
    return adjusted(
        task,
        samples=options.samples,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )


def _require_honoured(task: Task, options: Options) -> None:
    if options.samples is not None:
        raise UsageError(
            f"`--samples {options.samples}`: how often `{task.id}` asks a question is lm-eval's",
            "set `repeats` in a task file of your own",
        )
    if options.half:
        raise UsageError(
            f"which questions `{task.id}` asks is lm-eval's to say, so it has no halves",
            "take a task of `bench tasks list`",
        )
    if options.offline_sample:
        raise UsageError(
            f"`{task.id}` ships with no questions for `--offline-sample`", "give `--data-root DIR`"
        )


def _check_options(tasks: Sequence[Task], options: Options) -> None:
    """Nothing is silently ignored: an option that no task can honour is refused."""
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"`--limit {options.limit}` leaves no question", "use 1 or more")
    asked = {"--samples": options.samples, "--temperature": options.temperature}
    asked["--max-tokens"] = options.max_tokens
    given = [name for name, value in asked.items() if value is not None]
    if options.judge is not None and not any(task.judge for task in tasks):
        raise UsageError(
            f"`--judge` has no meaning for `{', '.join(task.id for task in tasks)}`",
            "leave it out, or add a task that is judged, such as `simple_safety_tests`",
        )
    check_embedding_options(tasks, options)
    if given and not any(task.kind == "generate" for task in tasks):
        names = ", ".join(task.id for task in tasks)
        raise UsageError(
            f"`{given[0]}` has no meaning for `{names}`: nothing is generated",
            "leave it out, or add a task that generates",
        )


def _plan(task: Task, options: Options, path: Path) -> Plan:
    if is_lm_eval(task):
        return plan_lm_eval(
            task,
            path,
            data_root=options.data_root,
            limit=options.limit,
            shots=options.shots,
            seed=options.seed,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            chat=options.chat,
        )
    asked = questions(
        task,
        data_root=options.data_root,
        limit=options.limit,
        shots=options.shots,
        seed=options.seed,
        chat=options.chat,
        offline=options.offline_sample,
        half=options.half,
    )
    return write_plan(asked, path, _appointed(task, options))


def _appointed(task: Task, options: Options) -> Appointed | None:
    """The judge of a judged task with its model, checked before anything is asked."""
    if not task.judge:
        return None
    judge, spec = judge_for(task, options.judge, runs.home_folder(options.home))
    own = Options(engine=judge.engine, settings=judge.settings)
    engine, settings = engine_settings(spec, own)
    appointed = Appointed(
        judge=judge,
        spec=place(spec, engine, settings),
        engine=engine,
        settings=settings,
        difficulties=difficulties(task, options.data_root),
    )
    check_server(task, appointed)
    return appointed
