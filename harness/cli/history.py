"""`bench leaderboard`, `bench sql`, `bench compare` and `bench runs`: what was done and shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import curve, output
from harness.cli.ladder import decision_table
from harness.cli.options import AsJSON, Format, Home
from harness.errors import BenchError, UsageError, did_you_mean

if TYPE_CHECKING:
    from harness.compare import Comparison
    from harness.types import JSON, Run

RunId = Annotated[str, typer.Argument(help="Run id, or its unique beginning or end.")]
Task = Annotated[str | None, typer.Option("--task", "-t", help="One task, or task:variant.")]

runs_app = typer.Typer(
    help="List, show, resume, export, delete runs; rebuild the history from them.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_TASK_NAME = "task || CASE WHEN variant = '' THEN '' ELSE ':' || variant END"
_WORSE = 3
_LOG_LINES = 20


def leaderboard(
    task: Task = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="One model.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Limited, offline and unfinished runs too.")
    ] = False,
    format: Format = "table",
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    """The latest complete run of each model on each task, with its 95 % interval."""
    format = output.known_format("json" if as_json else format)
    view = "history" if everything else "leaderboard"
    where, values = _filters(task, model)
    order = "ORDER BY task, variant, protocol, value DESC, model" if everything else ""
    for_people = format not in ("csv", "json")
    columns = _leaderboard_columns(everything) if for_people else "*"
    names, rows = _query(home, f"SELECT {columns} FROM {view} {where} {order}", values)
    if not rows:
        output.say(_nothing_to_show(home, everything))
    print(output.render(names, rows, format))


def sql(
    query: Annotated[str, typer.Argument(help="One reading statement, in DuckDB's SQL.")],
    format: Format = "table",
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    """Ask the history anything: read-only, and without access to any other file."""
    format = output.known_format("json" if as_json else format)
    names, rows = _query(home, query)
    print(output.render(names, rows, format))


def compare(
    a: Annotated[str, typer.Argument(help="The base: a model, or a run id.")],
    b: Annotated[str, typer.Argument(help="The tuned one: a model, or a run id.")],
    task: Task = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Also say what was lost, and if a loss over so many points is excluded."),
    ] = None,
    format: Format = "table",
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    """Whether B is better than A, paired by question. Exit status 3 where any task is worse."""
    from harness import compare as comparing
    from harness import runs

    format = output.known_format("json" if as_json else format)
    lost_margin = None if margin is None else margin_share(margin)
    found = comparing.compare(runs.home_folder(home), a, b, task, say=output.say)
    if lost_margin is not None:
        _show_lost(home, found, lost_margin, format)
    elif format == "json":
        output.print_json([comparing.as_json(one) for one in found])
    elif format == "csv":
        objects = [comparing.as_json(one) for one in found]
        print(output.render(list(objects[0]), [list(one.values()) for one in objects], format))
    else:
        print(output.render(*comparison_table(found), format))
        for one in found:
            output.say(comparing.sentence(one, len(found)))
    if any(one.verdict == "worse" for one in found):
        raise typer.Exit(_WORSE)


def margin_share(points: float) -> float:
    if not 0 < points < 100:
        raise UsageError(
            f"`--margin {points:g}` is no loss that could be excluded", "for example `--margin 1`"
        )
    return points / 100


def _show_lost(home: Path | None, found: Sequence[Comparison], margin: float, format: str) -> None:
    from harness import compare as comparing
    from harness import runs, verdict
    from harness.cli.verdict import forgetting_json, show_forgetting
    from harness.forgetting import forgetting

    lost = forgetting(runs.home_folder(home), found, margin, say=output.say)
    sentences = verdict.three_sentences(found, lost)
    if format == "json":
        comparison = [comparing.as_json(one) for one in found]
        output.print_json(
            {"sentences": sentences, "comparison": comparison, "forgetting": forgetting_json(lost)}
        )
        return
    print("\n".join(sentences) + "\n")
    print(output.render(*comparison_table(found), format))
    show_forgetting(lost, format)


@runs_app.command("list")
def list_runs(
    task: Task = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="One model.")] = None,
    status: Annotated[
        str | None, typer.Option(help="running, done, failed or interrupted.")
    ] = None,
    format: Format = "table",
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    """Every run, oldest first, with its primary measure or the cause of its failure."""
    format = output.known_format("json" if as_json else format)
    where, values = _filters(task, model, status)
    columns = f"run_id, kind, status, cause, model, {_TASK_NAME} AS task, metric, value, n, limit_n"
    names, rows = _query(home, f"SELECT {columns} FROM history {where}", values)
    print(output.render(names, rows, format))


@runs_app.command()
def show(run: RunId, as_json: AsJSON = False, home: Home = None) -> None:
    """What a run was asked, how it ended, its measures and the end of its log."""
    from harness import decisions, runs
    from harness.training_process import StepReader
    from harness.types import to_json

    place = runs.home_folder(home)
    found = runs.find(place, run)
    folder = runs.folder_of(place, found.run_id)
    measures = _measures(folder)
    steps = StepReader(folder).new() if found.kind == "train" else []
    log = _last_lines(folder / runs.WORKER_LOG)
    if as_json:
        value = {"run": to_json(found), "measures": measures, "log": log}
        output.print_json({**value, "steps": steps} if found.kind == "train" else value)
        return
    print(_described(found, folder))
    if measures:
        print("\n" + _measure_table(measures))
    if steps:
        print("\n" + curve.drawn(steps))
    if found.kind == "ladder":
        print("\n" + decision_table(decisions.read(folder)))
    if log and found.status != "done":
        print(f"\nend of {folder / runs.WORKER_LOG}:")
        print("\n".join(f"  {line}" for line in log))


@runs_app.command()
def rebuild(home: Home = None) -> None:
    """Build the history anew from the run folders."""
    from harness import runs, store

    place = runs.home_folder(home)
    loaded = store.rebuild(place, say=output.say)
    output.say(f"{store.database(place)} holds {len(loaded)} run(s)")


@runs_app.command()
def delete(
    run: Annotated[list[str], typer.Argument(help="Run ids, or unique beginnings or ends.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: Home = None,
) -> None:
    """Delete runs: their folders with every answer, and their rows in the history."""
    from harness import runs

    place = runs.home_folder(home)
    folders = [_folder(place, wanted) for wanted in run]
    for folder in folders:
        if runs.is_locked(folder):
            raise UsageError(
                f"`{folder.name}` is running", "stop it first (Ctrl-C in its terminal)"
            )
    names = ", ".join(folder.name for folder in folders)
    if not yes and not typer.confirm(f"delete {names} for good?", err=True):
        raise typer.Exit(1)
    for folder in folders:
        _delete(place, folder)
        output.say(f"deleted {folder.name}")


@runs_app.command()
def export(
    run: RunId,
    format: Annotated[
        str, typer.Option("--format", "-f", help="tar (the whole folder), csv, parquet or jsonl.")
    ] = "tar",
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; must not exist.")
    ] = None,
    home: Home = None,
) -> None:
    """Write a run's folder as .tar.gz, or its samples as a table; prints the file's path."""
    from harness import export as exporting
    from harness import runs

    if format not in exporting.FORMATS:
        hint = did_you_mean(format, exporting.FORMATS, f"one of {', '.join(exporting.FORMATS)}")
        raise UsageError(f"unknown format `{format}`", hint)
    folder = _folder(runs.home_folder(home), run)
    target = to or Path(f"{folder.name}{exporting.FORMATS[format]}")
    exporting.export(folder, target, format)
    print(target)


def _query(
    home: Path | None, sql: str, values: Sequence[object] = ()
) -> tuple[list[str], list[tuple[object, ...]]]:
    from harness import runs, store

    return store.query(runs.home_folder(home), sql, values, say=output.say)


def _filters(
    task: str | None, model: str | None, status: str | None = None
) -> tuple[str, list[object]]:
    """A WHERE clause and its values."""
    conditions = {f"? IN (task, {_TASK_NAME})": task, "model = ?": model, "status = ?": status}
    given = {sql: value for sql, value in conditions.items() if value is not None}
    return f"WHERE {' AND '.join(given)}" if given else "", list(given.values())


def _leaderboard_columns(everything: bool) -> str:
    """What people want to see: an id can be looked up, the rest is in csv and json."""
    interval = "printf('%.3f to %.3f', ci_low, ci_high)"
    further = 'status, limit_n AS "limit", ' if everything else ""
    return (
        f"{_TASK_NAME} AS task, metric, model, round(value, 4) AS value, "
        f'CASE WHEN value IS NOT NULL THEN {interval} END AS "95 % interval", n, {further}'
        "engine, dtype, protocol[:8] AS protocol, flags, "
        "strftime(coalesce(finished_at, started_at), '%Y-%m-%d %H:%M') AS \"when (UTC)\""
        + (", run_id" if everything else "")
    )


def _nothing_to_show(home: Path | None, everything: bool) -> str:
    _, rows = _query(home, "SELECT count(*) FROM history WHERE kind IN ('eval', 'import')")
    if rows[0][0] and not everything:
        return "no complete run fits; `bench leaderboard --all` shows limited and unfinished ones"
    return "no run fits; `bench eval --model Tiny --tasks arithmetic` makes one"


def comparison_table(found: Sequence[Comparison]) -> tuple[list[str], list[list[object]]]:
    columns = ["task", "metric", "n", "base", "tuned", "delta", "95 % interval", "p", "p (Holm)"]
    columns += ["both right", "lost", "won", "both wrong", "verdict"]
    return columns, [
        [
            one.name,
            *(one.metric, one.n, round(one.base, 4), round(one.tuned, 4)),
            *(f"{one.delta:+.4f}", f"{one.ci_low:+.4f} to {one.ci_high:+.4f}"),
            *(f"{one.p:.2g}", f"{one.p_holm:.2g}"),
            *(one.both_right, one.lost, one.won, one.both_wrong, one.verdict),
        ]
        for one in found
    ]


def _described(run: Run, folder: Path) -> str:
    from harness.types import to_json

    known = {name: value for name, value in to_json(run).items() if value not in ("", {})}
    fields = {**known, "folder": str(folder)}
    width = max(map(len, fields))
    return "\n".join(f"{name:<{width}}  {_plain(value)}" for name, value in fields.items())


def _plain(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _measures(folder: Path) -> list[JSON]:
    import json

    from harness import runs

    try:
        return list(json.loads((folder / runs.MEASURES).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise BenchError(
            f"`{folder / runs.MEASURES}` cannot be read: {error}",
            f"`bench score {folder.name}` writes it anew",
        ) from error


def _measure_table(measures: Sequence[JSON]) -> str:
    columns = ["metric", "group", "value", "stderr", "ci_low", "ci_high", "n"]
    return output.render(columns, [[m.get(name) for name in columns] for m in measures])


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 65_536))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-_LOG_LINES:]


def _folder(home: Path, wanted: str) -> Path:
    """The folder of a run; by its full id even where the manifest is torn."""
    from harness import runs

    exact = [folder for folder in runs.run_folders(home) if folder.name == wanted]
    return exact[0] if exact else runs.folder_of(home, runs.find(home, wanted).run_id)


def _delete(home: Path, folder: Path) -> None:
    import os
    import shutil

    from harness import runs, store

    held = runs.lock(folder)
    if held is None:
        raise _is_running(folder)
    # Out of sight in one step, so that no command takes it in again while half deleted.
    doomed = folder.with_name(f".deleted-{folder.name}")
    try:
        with runs.writing(folder):
            folder.rename(doomed)
            try:
                store.forget(home, folder.name, say=output.say)
            except BenchError:
                doomed.rename(folder)
                raise
            shutil.rmtree(doomed)
    finally:
        os.close(held)


def _is_running(folder: Path) -> UsageError:
    return UsageError(f"`{folder.name}` is running", "stop it first (Ctrl-C in its terminal)")
