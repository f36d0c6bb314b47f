"""`bench steer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.evaluate import Fresh, Settings, key_values, watched
from harness.cli.options import AsJSON, DataRoot, Home, Offline, Pooling, Prompts, Reduction
from harness.cli.progress import duration

if TYPE_CHECKING:
    from harness.types import JSON

ModelPair = Annotated[
    str, typer.Option("--model", "-m", help="A pair of the registry, or BASE,TUNED.")
]
Lambdas = Annotated[str, typer.Option(help="Factors of the vector, -1 to 1; 0 is always taken.")]
Mode = Annotated[str, typer.Option(help="sanity: 100 prompts of each group and label; full: 500.")]
Tasks = Annotated[str, typer.Option("--tasks", "-t", help="`aqi`, and others asked at each λ.")]
Limit = Annotated[int | None, typer.Option(help="Ask only N questions of each task.")]
Layers = Annotated[str, typer.Option(help="Layers that are steered; the last five unless given.")]
Vector = Annotated[str, typer.Option(help="mean or svd (of the differences).")]
Side = Annotated[str, typer.Option(help="chosen or rejected: the answers it is taken from.")]
VectorPooling = Annotated[str, typer.Option(help="last or mean: tokens it is taken from.")]
Norm = Annotated[str, typer.Option(help="keep: each token keeps its norm; free.")]
Controls = Annotated[int, typer.Option(help="Random directions of equal norm; 19 for a verdict.")]
Seeds = Annotated[int, typer.Option(help="Random halves of the prompts that must agree.")]
Texts = Annotated[
    str | None, typer.Option(help="Own answers for the vector: a file or ID (chosen, rejected).")
]
AqiLayers = Annotated[str | None, typer.Option(help="Layers that are measured; the last.")]


def steer(
    model: ModelPair,
    lambdas: Lambdas = "0,0.25,0.5,0.75,1",
    mode: Mode = "sanity",
    tasks: Tasks = "aqi",
    limit: Limit = None,
    layers: Layers = "",
    vector: Vector = "mean",
    side: Side = "chosen",
    vector_pooling: VectorPooling = "last",
    norm: Norm = "keep",
    controls: Controls = 19,
    seeds: Seeds = 3,
    prompts: Prompts = None,
    texts: Texts = None,
    aqi_layers: AqiLayers = None,
    pooling: Pooling = None,
    reduction: Reduction = None,
    fresh: Fresh = False,
    offline_sample: Offline = False,
    settings: Settings = None,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Follow the vector between two checkpoints in steps: does it part safe from unsafe prompts?"""
    try:
        from harness.steering.experiment import steer as sweep
        from harness.steering.planning import SteerOptions
    except ImportError as error:
        raise _missing(error) from None
    options = SteerOptions(
        mode=mode,
        tasks=tasks,
        limit=limit,
        layers=layers,
        vector=vector,
        side=side,
        vector_pooling=vector_pooling,
        norm=norm,
        controls=controls,
        seeds=seeds,
        prompts=prompts,
        texts=texts,
        aqi_layers=aqi_layers,
        pooling=pooling,
        reduction=reduction,
        fresh=fresh,
        offline_sample=offline_sample,
        settings=key_values(settings or ()),
        data_root=data_root,
        home=home,
    )
    with watched() as progress:
        swept = sweep(model, lambdas, options, progress)
    run = swept.run
    if as_json:
        ended = {"run_id": run.run_id, "status": run.status, "cause": run.cause, "error": run.error}
        output.print_json(swept.result or ended)
    elif swept.result:
        _show(swept.result)
    output.say(f"{run.run_id}  {run.status}  {duration(run.seconds)}")
    if run.status != "done":
        raise typer.Exit(1)


def _missing(error: ImportError) -> Exception:
    from harness.errors import UsageError

    return UsageError(
        f"`bench steer` needs a package that is missing: {error.name}",
        "`pip install 'tunebench[hf,steer]'`",
    )


def _randoms(result: JSON) -> str:
    """Mean and range of their separations where all of them were followed to, the last λ."""
    points = [p for p in result["points"] if p["control"].startswith("random")]
    last = max(p["lambda"] for p in points)
    values = [p["separation"] for p in points if p["lambda"] == last]
    mean = sum(values) / len(values)
    return f"{last:g}: {mean:.4f} ({min(values):.4f} – {max(values):.4f}, {len(values)} of them)"


def _show(result: JSON) -> None:
    columns = ("λ", "control", "separation", "95 % interval", "silhouette", "probe_auc")
    scores = ("aqi_anchor", "aqi_repo")
    shown = [p for p in result["points"] if not p["control"].startswith("random")]
    rows = [
        (
            f"{p['lambda']:g}",
            p["control"],
            p["separation"],
            f"{p['ci_low']:.4f} – {p['ci_high']:.4f}",
            p["silhouette"],
            p["probe_auc"],
            *(p[name] for name in scores),
        )
        for p in shown
    ]
    print(output.render((*columns, *scores), rows))
    print(f"random directions at λ = {_randoms(result)}")
    for point in result["points"]:
        for task in point.get("tasks", ()):
            value = f"{task['value']:.4f}" if task.get("value") is not None else task["status"]
            print(f"λ = {point['lambda']:g}  {task['task']}  {task.get('metric', '')} {value}")
    print(f"{result['verdict']} → {result['decision']}: {result['sentence']}")
    print(result["note"])
    if result["flags"]:
        print(f"flags: {', '.join(result['flags'])}")
