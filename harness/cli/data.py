"""`bench data`: look at training data before it is learnt, and make it from a teacher's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.options import AsJSON, Chat, DataRoot, Engine, Home, MaxTokens, Seed, Shots
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.data_check import Report, TaskOverlap
    from harness.rejection import Filtered

Config = Annotated[str, typer.Option(help="Config of the dataset.")]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]

data_app = typer.Typer(
    help="Check training data; make it from the right answers of a teacher.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@data_app.command()
def check(
    data: Annotated[str, typer.Argument(help="A file, a folder, or a hub id.")],
    tasks: Annotated[
        str, typer.Option("--tasks", "-t", help="Tasks whose questions must not be in it.")
    ] = "",
    prompt: Annotated[str | None, typer.Option(help="Column with what is asked.")] = None,
    answer: Annotated[str | None, typer.Option(help="Column with what is to be learnt.")] = None,
    config: Config = "default",
    split: Split = "train",
    data_root: DataRoot = None,
    as_json: AsJSON = False,
) -> None:
    """Duplicates, empty answers, lengths, questions of benchmarks. Exit status 1 where something
    is wrong."""
    from harness import data_check, registry
    from harness.types import Dataset, to_json

    report = data_check.check(
        Dataset(path=data, config=config, split=split),
        registry.tasks(tasks) if tasks else (),
        prompt=prompt,
        answer=answer,
        data_root=data_root,
    )
    if as_json:
        output.print_json({**to_json(report), "sound": report.sound})
    else:
        _show(report)
    if not report.sound:
        raise typer.Exit(1)


def _show(report: Report) -> None:
    output.say(f"{report.n:,} examples of {report.source}")
    rows = [[one.name, one.count, ", ".join(map(str, one.rows))] for one in report.findings]
    print(output.render(["what", "rows", "first rows"], rows))
    quantiles = ["words", "least", "5 %", "median", "95 %", "most"]
    print("\n" + output.render(quantiles, [[name, *some] for name, some in report.lengths.items()]))
    if report.overlaps:
        columns = ["task", "whole in the data", "13 words in it", "first"]
        print("\n" + output.render(columns, [_overlap_row(one) for one in report.overlaps]))
    output.say("nothing is wrong" if report.sound else "something is wrong: see the rows named")


def _overlap_row(one: TaskOverlap) -> list[object]:
    first = ", ".join(f"{name} (row {row})" for name, row in one.first)
    return [one.task, one.exact, one.ngram, first]


@data_app.command("filter")
def filter_(
    task: Annotated[str, typer.Argument(help="The task whose prompt and scorer are used.")],
    teacher: Annotated[str, typer.Option("--teacher", help="The model that answers.")],
    to: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    samples: Annotated[int, typer.Option(help="Answers to each problem.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of the answers.")] = 1.0,
    keep: Annotated[
        int | None,
        typer.Option(help="Traces kept of one problem, shortest first; all unless given."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Other problems, in the columns of the task's dataset.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Config of the dataset.")] = None,
    split: Split = "train",
    shots: Shots = None,
    limit: Annotated[int | None, typer.Option(help="Only so many problems.")] = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    chat: Chat = False,
    engine: Engine = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Engine setting KEY=VALUE; may be repeated.")
    ] = None,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Keep the right answers of a teacher as SFT data (rejection sampling)."""
    from harness import registry, rejection
    from harness.cli.evaluate import key_values, watched
    from harness.evaluate import Options

    if keep is not None and keep < 1:
        raise UsageError(f"`--keep {keep}` keeps nothing", "use 1 or more")
    options = Options(
        engine=engine,
        limit=limit,
        shots=shots,
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        chat=chat,
        settings=key_values(settings or ()),
        data_root=data_root,
        home=home,
    )
    chosen = rejection.problems(registry.task(task), data, config, split)
    with watched() as progress:
        found = rejection.filter_traces(
            chosen, teacher, to, options, most=keep, listener=progress, say=output.say
        )
    _print_filtered(found, as_json)


def _print_filtered(found: Filtered, as_json: bool) -> None:
    from harness.types import to_json

    if as_json:
        output.print_json({**to_json(found), "solved": found.solved})
        return
    rows = [[count, problems] for count, problems in found.histogram().items()]
    print(output.render(["traces kept", "problems"], rows))
    output.say(
        f"{found.kept:,} traces of {found.solved:,} problems in {found.path}: of {found.traces:,} "
        f"answers to {found.problems:,} problems {found.correct:,} were right, {found.repeated:,} "
        f"of these repeated another one ({found.run_id})"
    )
