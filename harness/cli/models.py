"""`bench models`: which models there are, whether they are whole, and adding one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.options import AsJSON, Format, Home
from harness.errors import BenchError, UsageError, did_you_mean

if TYPE_CHECKING:
    from harness.finding import Finding
    from harness.models import Registered
    from harness.types import JSON, ModelSpec

Name = Annotated[str, typer.Argument(help="Name in the registry.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Field KEY=VALUE of the entry; may be repeated.")
]

models_app = typer.Typer(
    help="List, show, check, add and remove models.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@models_app.command("list")
def list_models(format: Format = "table", as_json: AsJSON = False, home: Home = None) -> None:
    """Every checkpoint of the registry; `here` says whether it is on this machine."""
    from harness import models

    format = output.known_format("json" if as_json else format)
    folder = _home(home)
    book = models.entries(folder)
    rows = []
    for address in models.addresses(book):
        spec = models.model(address, folder)
        entry = book[address.partition("/")[0]].entry
        here = "yes" if models.is_local(spec) else "no"
        rows.append([address, spec.path, here, spec.parent, entry.display_name, entry.note])
    columns = ["name", "path", "here", "parent", "display_name", "note"]
    print(output.render(columns, rows, format))


@models_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Registry name, folder or hub id.")],
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    """What is known about a model: where it is, how it is loaded, what identifies its weights."""
    from harness import models

    folder = _home(home)
    found = models.entries(folder).get(name)
    about = _about(found, name) if found is not None else {"name": name}
    addresses = models.addresses({name: found}) if found is not None else [name]
    checkpoints = [_described(models.model(address, folder)) for address in addresses]
    if as_json:
        output.print_json({**about, "checkpoints": checkpoints})
        return
    rows = [[key, value] for key, value in about.items()]
    for checkpoint in checkpoints:
        rows += [["", ""], *([key, value] for key, value in checkpoint.items())]
    print(output.render(["field", "value"], rows, "table"))


def _about(found: Registered, name: str) -> JSON:
    entry = found.entry.model_dump(
        include={"display_name", "hidden_dim", "num_layers", "note"}, exclude_none=True
    )
    return {"name": name, "file": str(found.file), **entry}


def _described(spec: ModelSpec) -> JSON:
    """The model as it is on this machine; the hub is not asked."""
    from harness import models
    from harness.types import to_json

    try:
        here = models.resolve_local(spec)
    except BenchError as error:
        return {**to_json(spec), "here": False, "problem": error.message}
    return {**to_json(here or spec), "here": here is not None}


@models_app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="All of the registry if none.")] = None,
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    """Whether models are whole and what the registry says; exit status 1 if one is not."""
    from harness import models
    from harness.model_check import check as check_model

    folder = _home(home)
    book = models.entries(folder)
    wanted = names or list(book)
    chosen = [
        address
        for name in wanted
        for address in (models.addresses({name: book[name]}) if name in book else [name])
    ]
    specs = models.models(",".join(chosen), folder)
    findings = {spec.name: check_model(spec, folder) for spec in specs}
    _print_findings(findings, as_json)
    if any(finding.level == "bad" for found in findings.values() for finding in found):
        raise typer.Exit(1)


def _print_findings(findings: dict[str, list[Finding]], as_json: bool) -> None:
    columns = ["model", "check", "level", "text", "hint"]
    rows = [
        [name, finding.check, finding.level, finding.text, finding.hint]
        for name, found in findings.items()
        for finding in found
    ]
    if as_json:
        output.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print(output.render(columns, rows, "table"))


@models_app.command()
def add(
    name: Name,
    path: Annotated[str | None, typer.Option(help="Folder or hub id of one checkpoint.")] = None,
    base: Annotated[str | None, typer.Option(help="Folder or hub id; of a pair.")] = None,
    instruct: Annotated[str | None, typer.Option(help="Folder or hub id; of a pair.")] = None,
    parent: Annotated[
        str | None, typer.Option(help="Model it was trained from; in a pair, the base was.")
    ] = None,
    settings: Settings = None,
    replace: Annotated[bool, typer.Option("--replace", help="Over an entry of that name.")] = False,
    home: Home = None,
) -> None:
    """Add a checkpoint or a pair to the project's model_registry.json."""
    from harness import models
    from harness.model_registry import FILE_NAME

    given = {"path": path, "base": base, "instruct": instruct, "parent": parent}
    entry = {key: value for key, value in given.items() if value is not None}
    if path is not None and (base is not None or instruct is not None):
        raise UsageError(
            "a checkpoint has `--path`, a pair has `--base` and `--instruct`", "leave one out"
        )
    entry |= _fields(settings or [], entry)
    folder = _home(home)
    hides = models.add(name, entry, folder, replace=replace)
    output.say(f"added `{name}` to {folder / FILE_NAME}")
    if hides:
        output.say(f"note: it hides the `{name}` that ships with tunebench")
    for address in models.addresses({name: models.entries(folder)[name]}):
        output.say(f"{address} is {_place(models.model(address, folder))}")


def _fields(settings: list[str], entry: JSON) -> JSON:
    from harness.model_registry import field_names, field_value

    fields: JSON = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"`--set {setting}` is not KEY=VALUE", "such as `--set dtype=float32`")
        if key not in field_names():
            known = ", ".join(field_names())
            raise UsageError(
                f"unknown field `{key}`", did_you_mean(key, field_names(), f"there are: {known}")
            )
        if key in entry or key in fields:
            raise UsageError(f"`{key}` is given twice", f"leave out `--set {setting}`")
        fields[key] = field_value(key, text)
    return fields


def _place(spec: ModelSpec) -> str:
    kind = "the folder" if Path(spec.path).is_absolute() else "the hub id"
    return f"{kind} `{spec.path}`"


@models_app.command()
def remove(name: Name, home: Home = None) -> None:
    """Take a model out of the project's model_registry.json; its files stay."""
    from harness import models
    from harness.model_registry import FILE_NAME

    folder = _home(home)
    models.remove(name, folder)
    output.say(f"removed `{name}` from {folder / FILE_NAME}")


def _home(home: Path | None) -> Path:
    from harness.runs import home_folder

    return home_folder(home)
