"""`bench estimate` and `bench compare-recipes`: what recipes take, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.options import AsJSON, DataRoot, Format, Home
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.estimate import Estimate
    from harness.types import JSON

_ERROR = "times are right within a factor of about 1.6, at worst 2.6 (docs/estimates.md)"


def estimate(
    recipe: Annotated[str, typer.Argument(help="A recipe, by name or path.")],
    gpu: Annotated[str, typer.Option("--gpu", help="For example A40-48GB,H100-80GB×8.")],
    examples: Annotated[int | None, typer.Option(help="Rows, instead of counting them.")] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Mean tokens of a sequence, instead of measuring.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the recipe; may be repeated.")
    ] = None,
    format: Format = "table",
    as_json: AsJSON = False,
    data_root: DataRoot = None,
    home: Home = None,
) -> None:
    """Memory, hours and money on each kind of GPU; exit status 1 where it fits on none."""
    from harness import estimate as estimating
    from harness import models, recipes, runs
    from harness.cli.evaluate import key_values

    format = output.known_format("json" if as_json else format)
    for option, value in (("--examples", examples), ("--tokens", tokens)):
        if value is not None and value <= 0:
            raise UsageError(f"`{option} {value:g}` is nothing to train on", "use 1 or more")
    place = runs.home_folder(home)
    asked = recipes.read(recipe, key_values(settings or ()))
    spec = models.model(asked.shape.model, place)
    resolved = asked.resolved(spec)
    cards = estimating.gpus(gpu)
    shape = estimating.shape(spec, place)
    work = estimating.workload(asked, examples, tokens, data_root)
    found = [
        estimating.estimate(resolved, shape, work, one, estimating.calibrated(place, one))
        for one in cards
    ]
    if format == "json":
        output.print_json([estimate_json(one) for one in found])
    else:
        print(output.render(_COLUMNS, [_row(one) for one in found], format))
        output.say(f"{shape.parameters / 1e9:.2f}B weights ({shape.source}); {work.source}")
        _say(found)
    if not any(one.fits for one in found):
        raise typer.Exit(1)


def estimate_json(one: Estimate) -> JSON:
    from harness.types import to_json

    memory = {**to_json(one.memory), "total": one.memory.total}
    empty = dict.fromkeys(type(one).__slots__)
    return {**empty, **to_json(one), "memory": memory, "remedies": list(one.remedies)}


_COLUMNS = [
    *("GPUs", "launcher", "weights", "gradients", "optimizer", "activations", "reference"),
    *("GB in all", "of", "fits", "time", "USD", "GB on disk"),
]


def _row(one: Estimate) -> list[object]:
    m = one.memory
    parts = (m.weights, m.gradients, m.optimizer, m.activations, m.reference, m.total)
    return [
        *(f"{one.gpus.name}×{one.gpus.count}", one.launcher),
        *(f"{part:.1f}" for part in parts),
        f"{one.gpus.memory_gb:.0f}",
        "yes" if one.fits else "no",
        "" if one.hours is None else _time(one.hours),
        "" if one.usd is None else f"{one.usd:,.2f}",
        f"{one.disk_gb:.1f}",
    ]


def _time(hours: float) -> str:
    """
    >>> _time(0.52), _time(20.1), _time(336)
    ('31 min', '20.1 h', '14.0 days')
    """
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _say(found: Sequence[Estimate]) -> None:
    for one in found:
        name = f"{one.gpus.name}×{one.gpus.count}"
        if not one.fits:
            cures = "; or ".join(one.remedies) or "nothing in the table"
            output.say(
                f"{name}: does not fit, {one.memory.total:.0f} GB needed on each of "
                f"{one.gpus.memory_gb:.0f} GB; what would: {cures}"
            )
        if one.hours is None:
            output.say(f"{name}: sampling takes most of the time, which is not estimated")
        else:
            output.say(f"{name}: speed from {one.speed.source}")
    output.say(_ERROR)


def compare_recipes(
    a: Annotated[str, typer.Argument(help="A recipe, by name or path.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    format: Format = "table",
    as_json: AsJSON = False,
) -> None:
    """Every setting in which two recipes differ, with the ratio of numbers."""
    from harness import recipe_gap, recipes

    format = output.known_format("json" if as_json else format)
    found = recipe_gap.gaps(recipes.read(a, {}), recipes.read(b, {}))
    if format == "json":
        output.print_json(
            [{"setting": g.setting, "a": g.a, "b": g.b, "ratio": g.ratio} for g in found]
        )
        return
    rows = [[g.setting, _value(g.a), _value(g.b), recipe_gap.in_words(g.ratio)] for g in found]
    print(output.render(["setting", a, b, "gap"], rows, format))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else output.cell(value)
