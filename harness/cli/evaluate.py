"""`bench eval`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.options import (
    AsJSON,
    Chat,
    DataRoot,
    Engine,
    Home,
    Judge,
    Layers,
    Limit,
    MaxTokens,
    Offline,
    Pooling,
    Prompts,
    Reduction,
    Seed,
    Shots,
)
from harness.cli.progress import Progress, duration
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.evaluate import Options
    from harness.types import JSON, Measure, Run

Models = Annotated[str, typer.Option("--model", "-m", help="Registry names, folders or hub ids.")]
Tasks = Annotated[
    str, typer.Option("--tasks", "-t", help="Tasks, variants (task:variant), groups.")
]
Samples = Annotated[int | None, typer.Option(help="Answers per question.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run anew what is done or interrupted.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")]
Replicas = Annotated[
    int | None, typer.Option(help="Of the model, side by side on a Ray cluster; 0 fills it.")
]
RayAddress = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster; one is started if none is named.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Engine setting KEY=VALUE; may be repeated.")
]


def evaluate(
    model: Models,
    tasks: Tasks,
    engine: Engine = "auto",
    limit: Limit = None,
    shots: Shots = None,
    samples: Samples = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    chat: Chat = False,
    judge: Judge = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    offline_sample: Offline = False,
    replicas: Replicas = None,
    ray_address: RayAddress = None,
    settings: Settings = None,
    prompts: Prompts = None,
    layers: Layers = None,
    pooling: Pooling = None,
    reduction: Reduction = None,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Evaluate models on tasks; an interrupted run goes on, a finished one is shown again."""
    from harness.evaluate import Options

    options = Options(
        engine=engine,
        limit=limit,
        shots=shots,
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        chat=chat,
        judge=judge,
        fresh=fresh,
        offline_sample=offline_sample,
        replicas=replicas,
        ray_address=ray_address,
        settings=key_values(settings or ()),
        prompts=prompts,
        layers=layers,
        pooling=pooling,
        reduction=reduction,
        data_root=data_root,
        home=home,
    )
    if dry_run:
        _dry_run(model, tasks, options, as_json)
    else:
        _run(model, tasks, options, as_json)


def resume(
    run: Annotated[str, typer.Argument(help="Run id, or its unique beginning or end.")],
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Finish an interrupted or failed run as it was asked."""
    from harness import runs
    from harness.evaluate import resume as go_on

    found = runs.find(runs.home_folder(home), run)
    if found.kind == "train":
        name = (found.recipe or {}).get("name", "RECIPE")
        raise UsageError(
            f"`{found.run_id}` is a training", f"`bench train {name}` as before goes on with it"
        )
    with watched() as progress:
        finished = go_on(run, home, progress)
    _print(runs.home_folder(home), [finished], as_json)


def key_values(pairs: Sequence[str], such_as: str = "dtype=bfloat16") -> dict[str, str]:
    """`--set` values as a mapping; raises UsageError for one without `=`."""
    split = [pair.partition("=") for pair in pairs]
    for (key, equals, _), pair in zip(split, pairs, strict=True):
        if not equals or not key:
            raise UsageError(f"`--set {pair}` is not KEY=VALUE", f"for example `--set {such_as}`")
    return {key: value for key, _, value in split}


@contextmanager
def watched() -> Iterator[Progress]:
    """Progress on stderr; an interruption ends the command with exit status 130."""
    progress = Progress()
    try:
        yield progress
    except KeyboardInterrupt:
        progress.note("interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None
    finally:
        progress.close()


def _run(model: str, tasks: str, options: Options, as_json: bool) -> None:
    from harness import runs
    from harness.evaluate import evaluate

    with watched() as progress:
        finished = evaluate(model, tasks, options, listener=progress)
    _print(runs.home_folder(options.home), finished, as_json)


def _print(home: Path, finished: Sequence[Run], as_json: bool) -> None:
    """The result on stdout; exit status 1 where any run is not done."""
    results = [(run, list(measures_of(home, run))) for run in finished]
    if as_json:
        output.print_json({"runs": [result_json(run, measures) for run, measures in results]})
    else:
        _show(results)
        _show_verdicts(home, finished)
    if any(run.status != "done" for run in finished):
        raise typer.Exit(1)


def measures_of(home: Path, run: Run) -> Iterator[Measure]:
    import json

    from harness import runs
    from harness.types import Measure

    path = runs.folder_of(home, run.run_id) / runs.MEASURES
    if run.status == "done":
        yield from (Measure(**value) for value in json.loads(path.read_text(encoding="utf-8")))


def result_json(run: Run, measures: Sequence[Measure]) -> JSON:
    from harness.types import to_json

    return {
        "run_id": run.run_id,
        "model": run.model,
        "task": run.task,
        "variant": run.variant,
        "status": run.status,
        "cause": run.cause,
        "error": run.error,
        "measures": [to_json(measure) for measure in measures],
    }


def _show(results: Sequence[tuple[Run, Sequence[Measure]]]) -> None:
    columns = ("model", "task", "metric", "value", "95 % interval", "n", "note")
    rows = [row for run, measures in results for row in result_rows(run, measures)]
    print(output.render(columns, rows))
    for run, _ in results:
        output.say(f"{run.run_id}  {run.status}  {duration(run.seconds)}")


def _show_verdicts(home: Path, finished: Sequence[Run]) -> None:
    """A model with a parent in the registry was tuned from it: did that help?"""
    from harness.compare import against_parents, sentence

    if not any(run.parent for run in finished):
        return
    found = against_parents(home, finished)
    parents = {run.run_id: f"{run.model} against {run.parent}" for run in finished}
    for one in found:
        print(f"{parents[one.tuned_run]}: {sentence(one, len(found))}")


def result_rows(run: Run, measures: Sequence[Measure]) -> Iterator[tuple[object, ...]]:
    task = run.task_id
    if run.status != "done":
        yield run.model, task, "", None, "", None, f"{run.status}: {run.cause}"
    for measure in measures:
        if measure.group == "":
            interval = f"{measure.ci_low:.4f} – {measure.ci_high:.4f}"
            yield run.model, task, measure.metric, measure.value, interval, measure.n, _note(run)


def _note(run: Run) -> str:
    limited = [f"limited to {run.limit_n}"] if run.limit_n is not None else []
    return ", ".join([*limited, *(flag.replace("_", " ") for flag in run.flags)])


def _dry_run(model: str, tasks: str, options: Options, as_json: bool) -> None:
    from harness.dry_run import dry_run

    previews = dry_run(model, tasks, options)
    if as_json:
        output.print_json({"plans": [preview.to_json() for preview in previews]})
        return
    for p in previews:
        print(f"{p.model} on {p.task}")
        print(f"  requests       {p.requests:,}")
        print(
            f"  prompt tokens  {p.prompt_tokens:,}, distinct prefixes once: {p.distinct_tokens:,}"
        )
        print(f"  new tokens     at most {p.most_new_tokens:,}")
        print(f"  expected time  {duration(p.seconds)} ({p.basis})")
        print(f"  first prompt   {len(p.first_ids)} tokens, {p.bos_count} BOS\n")
        print(textwrap.indent(p.first_prompt, "    | ", lambda line: True), end="\n\n")
