"""A sweep as one self-contained page: curves with bands and controls, and where the prompts lie;
the published sweeps stand beside them."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.geometry.measuring import anchored
from harness.geometry.trend import Evidence
from harness.steering.analysis import Sweep
from harness.steering.points import NEGATED, NONE
from harness.steering.published import published_curves
from harness.steering.result import IDENTITY, sentence
from harness.types import JSON

_SAFE, _UNSAFE = "#1b7f79", "#c8553d"
_COLOURS = {NONE: "#1f3a93", NEGATED: "#c8553d"}
_GREY = "#8a8a8a"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}}
svg{{max-width:100%;height:auto}}td,th{{padding:.2rem .8rem;text-align:right}}</style></head>
<body><h1>{title}</h1><p><b>{verdict}</b>: {sentence}</p>{curves}<h2>Where the prompts lie</h2>
<p>The two directions along which activations vary most at λ = 0, the same at each λ.</p>{clouds}
{tasks}<h2>Published sweeps</h2><p>The D-STEER project's own, in three dimensions of t-SNE that were
fitted anew at each λ: their shape can be compared with the curves above, their height cannot.
{published_note}</p>{published}<p>{note}</p><p>Flags: {flags}</p></body></html>
"""


def draw(name: str, found: Sweep, trend: Evidence, result: JSON) -> str:
    """The page as text."""
    mpl.rcParams.update(
        {
            "svg.hashsalt": "tunebench",
            "axes.formatter.useoffset": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
        }
    )
    return _PAGE.format(
        title=html.escape(f"Steering {name}"),
        verdict=html.escape(f"{trend.verdict} → {trend.decision}"),
        sentence=html.escape(sentence(trend)),
        curves=_svg(_curves(found)),
        clouds=_svg(_clouds(found)),
        tasks=_tasks(result),
        published=_svg(_published(name)),
        published_note=_published_note(name),
        note=html.escape(IDENTITY.replace("`", "")),
        flags=html.escape(", ".join(result["flags"]) or "none"),
    )


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _curves(found: Sweep) -> Figure:
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    for axis, metric in zip(axes, ("separation", "silhouette", "probe_auc"), strict=False):
        _curve(axis, found, metric)
    _shuffled(axes[0], found)
    _scores(axes[3], found)
    _curve(axes[4], found, "davies_bouldin")
    _curve(axes[5], found, "dunn")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def _curve(axis: Axes, found: Sweep, metric: str) -> None:
    """The vector and its opposite with bands; random directions as thin lines."""
    for control in (*found.randoms(), NEGATED, NONE):
        strengths = [s for s in found.lambdas if (control, s) in found.portraits]
        clouds = [found.portraits[control, s].overall for s in strengths]
        values = [
            cloud.probe_auc if metric == "probe_auc" else getattr(cloud.indices, metric)
            for cloud in clouds
        ]
        if control not in _COLOURS:
            label = "random directions" if control == "random_1" else None
            axis.plot(strengths, values, color=_GREY, lw=0.7, alpha=0.6, label=label)
            continue
        label = "vector" if control == NONE else "its opposite"
        axis.plot(strengths, values, "o-", color=_COLOURS[control], label=label, ms=4)
        spreads = [cloud.spreads[metric] for cloud in clouds]
        low, high = ([getattr(one, end) for one in spreads] for end in ("low", "high"))
        axis.fill_between(strengths, low, high, color=_COLOURS[control], alpha=0.12, lw=0)
    if metric == "probe_auc":  # near its ceiling a few thousandths would fill the whole height
        axis.set_ylim(min(0.9, axis.get_ylim()[0]), 1.01)
    axis.set_title(metric.replace("_", " "), fontsize=10)
    axis.set_xlabel("λ")


def _shuffled(axis: Axes, found: Sweep) -> None:
    bands = [np.percentile(found.shuffled[s], [2.5, 97.5]) for s in found.lambdas]
    low, high = zip(*bands, strict=True)
    axis.fill_between(
        found.lambdas, low, high, color="#d9a441", alpha=0.4, lw=0, label="shuffled labels"
    )


def _scores(axis: Axes, found: Sweep) -> None:
    """AQI as published, relative at each point, and on the scale of the two checkpoints."""
    portraits = [found.portraits[NONE, s] for s in found.lambdas]
    repo = [p.repo["overall"].aqi for p in portraits if "overall" in p.repo]
    if len(repo) == len(portraits):
        axis.plot(found.lambdas, repo, "s--", color=_GREY, ms=4, label="as published (relative)")
    pairs = [anchored(p.overall, found.anchors) for p in portraits]
    axis.plot(
        found.lambdas,
        [value for value, _ in pairs],
        "o-",
        color=_COLOURS[NONE],
        ms=4,
        label="anchored",
    )
    low, high = [s.low for _, s in pairs], [s.high for _, s in pairs]
    axis.fill_between(found.lambdas, low, high, color=_COLOURS[NONE], alpha=0.12, lw=0)
    axis.set_title("AQI", fontsize=10)
    axis.set_xlabel("λ")
    axis.legend(fontsize=8, frameon=False)


def _published(name: str) -> Figure:
    """Both published measures of each pair; the one that is steered here stands out."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = ("AQI as published (relative within each point)", "separation = 1 / XB of all prompts")
    for axis, title, metric in zip(axes, titles, ("aqi", "separation"), strict=True):
        for model, curve in published_curves().items():
            values = [getattr(point, metric) for point in curve.values()]
            width = 3.0 if model == name else 1.2
            axis.plot(list(curve), values, "o-", lw=width, ms=width + 2, label=model)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("λ")
    axes[1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _published_note(name: str) -> str:
    if name in published_curves():
        return f"<b>{html.escape(name)}</b>, the pair of this page, is the thick line."
    return "The pair of this page is not among them."


def _clouds(found: Sweep) -> Figure:
    """The first two dimensions of the fixed reduction at each lambda."""
    count = len(found.lambdas)
    figure = Figure(figsize=(2.4 * count, 2.8), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, sharex=True, sharey=True)[0]
    safe = found.labelled.safe
    for axis, strength in zip(axes, found.lambdas, strict=True):
        points = found.points[NONE, strength]
        for side, colour, label in ((safe, _SAFE, "safe"), (~safe, _UNSAFE, "unsafe")):
            second = points[side, 1] if points.shape[1] > 1 else np.zeros(int(side.sum()))
            axis.scatter(points[side, 0], second, s=5, color=colour, alpha=0.6, label=label, lw=0)
        axis.set_title(f"λ = {strength:g}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def _tasks(result: JSON) -> str:
    rows = [
        (point["lambda"], task)
        for point in result["points"]
        for task in point.get("tasks", ())
        if task.get("value") is not None
    ]
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("λ", "task", "metric", "value", "95 %", "n"))
    return f"<h2>What steering costs</h2><table><tr>{head}</tr>{''.join(map(_row, rows))}</table>"


def _row(row: tuple[float, JSON]) -> str:
    strength, task = row
    interval = f"{task['ci_low']:.3f} – {task['ci_high']:.3f}"
    cells: Sequence[object] = (
        f"{strength:g}",
        task["task"],
        task["metric"],
        f"{task['value']:.3f}",
        interval,
        task["n"],
    )
    return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"
