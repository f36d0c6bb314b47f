"""`bench train` and `bench trainers`: recipes, methods, and training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.evaluate import key_values, watched
from harness.cli.options import AsJSON, DataRoot, Format, Home

if TYPE_CHECKING:
    from harness.trainer import Trainer
    from harness.types import JSON, Run

Recipe = Annotated[str, typer.Argument(help="Name of a recipe, or path of a YAML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Field KEY=VALUE of the recipe, dotted; may be repeated."),
]
Register = Annotated[str | None, typer.Option(help="Name of the checkpoint in the model registry.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Train anew what is done or interrupted.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and start nothing.")]

trainers_app = typer.Typer(
    help="List and show training methods and recipes.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def train(
    recipe: Recipe,
    settings: Settings = None,
    register: Register = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Train a model as a recipe says; an interrupted training goes on from its last checkpoint."""
    from harness import runs, training_plan
    from harness import train as training

    options = training_plan.Options(
        settings=key_values(settings or (), "optimizer.learning_rate=1e-5"),
        register=register,
        fresh=fresh,
        data_root=data_root,
        home=home,
    )
    if dry_run:
        _show_plan(training_plan.preview(recipe, options), as_json)
        return
    with watched() as progress:
        run = training.train_recipe(recipe, options, progress)
    _show(runs.home_folder(home), run, register, as_json)


def _show(home: Path, run: Run, register: str | None, as_json: bool) -> None:
    from harness import runs, store
    from harness import train as training

    if register is not None:
        store.sync(home, say=output.say)
    result = training.result_json(home, run, register)
    if as_json:
        output.print_json(result)
    else:
        for name, value in result.items():
            print(f"{name:<10}  {output.cell(value)}".rstrip())
        for flag in run.flags:
            output.say(f"flag: {flag}")
        output.say(f"`bench runs show {run.run_id}` draws its loss")
    if run.status != "done":
        log = runs.folder_of(home, run.run_id) / runs.WORKER_LOG
        output.say(f"{run.status} ({run.cause}): {run.error}; log: {log}")
        raise typer.Exit(1)


def _show_plan(plan: JSON, as_json: bool) -> None:
    if as_json:
        output.print_json(plan)
        return
    check = plan["check"]
    facts = {
        "recipe": plan["recipe"],
        "method": plan["resolved"]["method"],
        "model": plan["resolved"]["model"],
        "parameters": f"{check['parameters']:,}" if "parameters" in check else None,
        "examples": f"{check['kept']:,} of {check['examples']:,}" if check else None,
        "tokens": f"{check['tokens']:,}, longest {check['longest']:,}" if check else None,
        "steps": plan["steps"] or None,
        "accumulation": plan["accumulation"],
        "flags": plan["flags"],
    }
    for name, value in facts.items():
        print(f"{name:<12}  {output.cell(value)}".rstrip())
    for one in plan["data"]:
        print(f"data          {one['taken']:,} of {one['rows']:,} rows of {one['path']}")
    print(f"first example {plan['first_example']}")


@trainers_app.command("list")
def list_trainers(format: Format = "table", as_json: AsJSON = False) -> None:
    """Every method, and the recipes that ship with tunebench."""
    from harness import recipes, registry

    format = output.known_format("json" if as_json else format)
    rows = [
        [one.name, one.data, "yes" if one.reference else "no", one.objective[0], one.summary]
        for one in registry.trainers()
    ]
    print(output.render(["method", "data", "reference", "objective", "summary"], rows, format))
    if format == "table":
        output.say(f"recipes: {', '.join(recipes.names())}")
        output.say(f"ladders: {', '.join(recipes.ladders())}")


@trainers_app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, or a recipe.", show_default=False)],
    as_json: AsJSON = False,
) -> None:
    """The parameters of a method with their defaults, or a recipe as it is written."""
    from harness import recipes, registry

    if name in (*recipes.names(), *recipes.ladders()) or Path(name).suffix == recipes.SUFFIX:
        path, values = recipes.written(name, {})
        if not values.get("rungs"):
            recipes.read(name, {})
        if as_json:
            output.print_json({"recipe": path.stem, "asked": values})
        else:
            print(recipes.find(name).read_text(encoding="utf-8"), end="")
        return
    _show_method(registry.trainer(name), as_json)


def _type_name(annotation: object) -> str:
    """As it is written in code: `bool`, `Literal['a', 'b']`."""
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _show_method(trainer: Trainer, as_json: bool) -> None:
    from harness import recipes

    fields = recipes.mirrored(trainer.params).model_fields
    params = [
        {
            "param": name,
            "type": _type_name(field.annotation),
            "default": None if field.is_required() else field.default,
            "required": field.is_required(),
        }
        for name, field in fields.items()
    ]
    about = {"method": trainer.name, "summary": trainer.summary, "data": trainer.data}
    if as_json:
        output.print_json({**about, "objective": trainer.objective[0], "params": params})
        return
    for key, value in about.items():
        print(f"{key:<8}  {value}")
    print()
    rows = [
        [one["param"], one["type"], "required" if one["required"] else str(one["default"])]
        for one in params
    ]
    print(output.render(["param", "type", "default"], rows))
