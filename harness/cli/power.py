"""`bench power`: what a comparison will be able to show, before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.options import AsJSON, DataRoot, Format, Home

if TYPE_CHECKING:
    from harness.power import Plan


def power(
    task: Annotated[str, typer.Option("--task", "-t", help="Tasks, variants, groups.")],
    delta: Annotated[float, typer.Option(help="The true difference to be found, in points.")],
    against: Annotated[
        str | None, typer.Option(help="The model that the tuned one will be compared with.")
    ] = None,
    chance: Annotated[
        float, typer.Option("--power", help="Chance with which it is to be found.")
    ] = 0.8,
    alpha: Annotated[float, typer.Option(help="Two-sided level of the test.")] = 0.05,
    family: Annotated[
        int, typer.Option(help="Comparisons in the table, for Holm's adjustment.")
    ] = 1,
    format: Format = "table",
    as_json: AsJSON = False,
    data_root: DataRoot = None,
    home: Home = None,
) -> None:
    """How many questions a difference needs, and what each benchmark can show at all."""
    from harness import power as planning
    from harness import registry, runs

    format = output.known_format("json" if as_json else format)
    aim = planning.Aim(delta=delta / 100, power=chance, alpha=alpha, family=family)
    plans = planning.plan(
        runs.home_folder(home),
        registry.tasks(task),
        aim,
        against,
        data_root=data_root,
        say=output.say,
    )
    if format == "json":
        output.print_json([planning.as_json(one) for one in plans])
        return
    print(output.render(_COLUMNS, [_row(one) for one in plans], format))
    for one in plans:
        output.say(planning.sentence(one, aim))
        output.say(f"  from {one.basis.source}")
        if text := planning.advice(one):
            output.say(f"  {text}")


_COLUMNS = [
    *("task", "n", "points", "needed", "chance with n", "n can show", "unpaired needed"),
    *("unpaired shows", "changed", "correlation", "needed at 4", "needed at 16"),
]


def _row(one: Plan) -> list[object]:
    many = {repeated.samples: repeated.needed for repeated in one.repeated}
    return [
        *(one.task, one.n, f"{one.delta * 100:g}", one.needed),
        None if one.power is None else f"{one.power:.2f}",
        _points(one.detectable),
        one.needed_unpaired,
        _points(one.detectable_unpaired),
        *(f"{one.basis.changed:.3f}", f"{one.basis.correlation:.2f}"),
        *(many.get(4), many.get(16)),
    ]


def _points(share: float | None) -> str | None:
    return None if share is None else f"{share * 100:.1f}"
