"""The sweeps that the D-STEER project published, from the reference results."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.shipped import shipped

_FILE = "leaderboards/reference/dsteer_aqi_runs.csv"
_COLUMNS = {"aqi": "aqi", "xb_raw": "xb"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPoint:
    """aqi: relative within its point. xb: of all prompts, in three dimensions of t-SNE."""

    aqi: float
    xb: float

    @property
    def separation(self) -> float:
        return 1 / self.xb


Curve = Mapping[float, PublishedPoint]


def published_curves() -> dict[str, Curve]:
    """By the name of the pair in the registry, then by lambda, ascending."""
    with shipped(_FILE).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if _is_point(row)]
    found: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:
        point = found.setdefault(row["model"], {}).setdefault(_strength(row), {})
        point[_COLUMNS[row["metric"]]] = float(row["value"])
    return {
        model: {strength: PublishedPoint(**points[strength]) for strength in sorted(points)}
        for model, points in found.items()
    }


def _is_point(row: Mapping[str, str]) -> bool:
    overall = row["experiment"] == "phase3" and row["task"] == "aqi/overall"
    return overall and row["metric"] in _COLUMNS


def _strength(row: Mapping[str, str]) -> float:
    match = re.match(r"lambda=([\d.]+)", row["extra_params"])
    if match is None:
        raise ValueError(f"a published point of {row['model']} has no lambda")
    return float(match[1])
