"""A measure over the steps of a training, drawn with characters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 72, 10
BAR = 40
EVAL = "eval/"


def drawn(steps: Sequence[Mapping[str, float]]) -> str:
    """The loss (or reward) as a curve, and the first and last value of the other measures."""
    name = next((name for name in ("reward", "loss") if any(name in step for step in steps)), "")
    points = [(step["step"], step[name]) for step in steps if name in step]
    lines = [f"{name} over {points[-1][0]:,.0f} steps", *plot(points)] if points else []
    for measure in sorted({key for step in steps for key in step if key.startswith(EVAL)}):
        lines += _evaluated(measure, [(s["step"], s[measure]) for s in steps if measure in s])
    return "\n".join([*lines, *_ends(steps)])


def _evaluated(name: str, points: Sequence[tuple[float, float]]) -> list[str]:
    """A bar for each evaluation of a checkpoint: they are few, and far apart."""
    most = max(value for _, value in points)
    scale = BAR / most if most > 0 else 0.0
    bars = [
        f"{step:>10,.0f} │{'█' * round(max(value, 0.0) * scale):<{BAR}} {value:.4f}"
        for step, value in sorted(points)
    ]
    return [f"{name} at {len(points)} step(s)", *bars]


def plot(points: Sequence[tuple[float, float]]) -> list[str]:
    """Lines of a chart; each column is the mean of its steps."""
    columns = _columns([value for _, value in points])
    low, high = min(columns), max(columns)
    span = high - low or 1.0
    rows = [round((value - low) / span * (HEIGHT - 1)) for value in columns]
    lines = []
    for row in reversed(range(HEIGHT)):
        label = high if row == HEIGHT - 1 else low if row == 0 else None
        text = "" if label is None else f"{label:.4g}"
        lines.append(f"{text:>10} │" + "".join("•" if at == row else " " for at in rows).rstrip())
    return [*lines, " " * 11 + "└" + "─" * len(columns)]


def _columns(values: Sequence[float]) -> list[float]:
    width = min(WIDTH, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    parts = [values[a:b] for a, b in itertools.pairwise(edges)]
    return [sum(part) / len(part) for part in parts]


def _ends(steps: Sequence[Mapping[str, float]]) -> list[str]:
    lines = []
    for name in sorted({name for step in steps for name in step} - {"step", "epoch"}):
        values = [step[name] for step in steps if name in step]
        lines.append(f"{name:<20} {values[0]:>12.5g} → {values[-1]:.5g}")
    return lines
