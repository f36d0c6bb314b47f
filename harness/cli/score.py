"""`bench score`: grade saved answers again, and see where graders differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.evaluate import measures_of, result_json, result_rows
from harness.cli.options import AsJSON, Format, Home
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.disagreements import Disagreements
    from harness.types import Run


def score(
    run: Annotated[
        list[str] | None, typer.Argument(help="Run ids, or unique beginnings or ends.")
    ] = None,
    grader: Annotated[
        str | None, typer.Option("--grader", "-g", help="A grader to add; else the task's own.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All finished evaluations.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let changed graders of the task be the run's own.")
    ] = False,
    disagreements: Annotated[
        bool, typer.Option("--disagreements", help="Only list where graders of a run differ.")
    ] = False,
    between: Annotated[
        tuple[str, str] | None, typer.Option(help="The two graders to compare: A B.")
    ] = None,
    format: Format = "table",
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    """Grade saved answers again, without a model; or list where graders differ."""
    from harness import runs

    place = runs.home_folder(home)
    format = output.known_format("json" if as_json else format)
    _check(grader, replace, disagreements, between)
    names = _named(place, run or [], everything)
    if disagreements:
        _show_disagreements(place, names, between, format)
    else:
        _grade(place, names, grader, replace, everything, format)


def _check(
    grader: str | None, replace: bool, disagreements: bool, between: tuple[str, str] | None
) -> None:
    """Nothing is silently ignored."""
    if between and not disagreements:
        raise UsageError("`--between` needs `--disagreements`", "add `--disagreements`")
    if disagreements and (grader or replace):
        given = "--grader" if grader else "--replace"
        raise UsageError(
            f"`{given}` has no meaning with `--disagreements`", "grade first, then list"
        )
    if grader and replace:
        raise UsageError(
            f"`--replace` with `--grader {grader}`: only the task's own graders can be the run's",
            "leave one of them out",
        )


def _named(home: Path, names: list[str], everything: bool) -> list[str]:
    from harness.rescore import gradable

    if everything and names:
        raise UsageError(f"`--all` and `{names[0]}` exclude each other", "leave one of them out")
    if not everything and not names:
        raise UsageError("no run was named", "`bench runs list` shows them; `--all` takes all")
    return gradable(home) if everything else names


def _grade(
    home: Path, names: Sequence[str], grader: str | None, replace: bool, skip: bool, format: str
) -> None:
    from harness import store
    from harness.rescore import rescore

    done: list[Run] = []
    try:
        for name in names:
            try:
                done.append(rescore(home, name, grader, replacing=replace))
            except UsageError as error:
                # Of all runs, those that the grader cannot grade are only named.
                if not skip:
                    raise
                output.say(f"left out: {error.message}")
    finally:
        store.sync(home, say=output.say)
    _print(home, done, format)


def _print(home: Path, done: Sequence[Run], format: str) -> None:
    results = [(run, list(measures_of(home, run))) for run in done]
    if format == "json":
        output.print_json({"runs": [result_json(run, measures) for run, measures in results]})
        return
    columns = ("model", "task", "metric", "value", "95 % interval", "n", "note")
    rows = [row for run, measures in results for row in result_rows(run, measures)]
    print(output.render(columns, rows, format))


def _show_disagreements(
    home: Path, names: Sequence[str], between: tuple[str, str] | None, format: str
) -> None:
    from harness.disagreements import disagreements

    found = [one for name in names for one in disagreements(home, name, between, output.say)]
    if format == "json":
        output.print_json([one.to_json() for one in found])
        return
    for one in found:
        output.say(_sentence(one))
    columns = ["run", "sample", "index", "target", "a", "answer a", "score a"]
    columns += ["b", "answer b", "score b"]
    print(output.render(columns, [row for one in found for row in _rows(one)], format))


def _rows(one: Disagreements) -> list[tuple[object, ...]]:
    return [
        (
            *(one.run_id[-6:], d.sample_id, d.sample_index, _short(d.target)),
            *(one.a, _short(d.answer_a), d.score_a, one.b, _short(d.answer_b), d.score_b),
        )
        for d in one.found
    ]


def _short(text: str | None) -> str | None:
    """The end of a text: that is where a solution has its answer."""
    return text if text is None or len(text) <= 40 else f"…{text[-39:]}"


def _sentence(one: Disagreements) -> str:
    return (
        f"{one.run_id}: {one.a} {one.value_a:.4f}, {one.b} {one.value_b:.4f}, difference"
        f" {one.delta * 100:+.2f} points (95 % interval {one.ci_low * 100:+.2f} to"
        f" {one.ci_high * 100:+.2f}, p = {one.p:.2g}) over {one.n} questions;"
        f" {len(one.found)} answers graded differently"
    )
