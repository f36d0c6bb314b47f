"""From the activations of all points of a sweep to numbers, evidence and flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.geometry import resampling, trend
from harness.geometry.distances import Points
from harness.geometry.indices import indices
from harness.geometry.measuring import OVERALL, Anchors, Labelled, Portrait, portrait
from harness.geometry.reduction import is_fixed, reduction, tsne
from harness.geometry.resampling import spread
from harness.geometry.trend import Evidence
from harness.steering.points import NEGATED, NONE, RANDOM, Point

Values = NDArray[np.float64]

SHUFFLES = 199
_FOLDS = 5
_LEAST_GROUPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """portraits: by (control, lambda). points: reduced activations of the same. shuffled: by
    lambda, separations under shuffled labels (shuffles,). anchors: CHI and XB of both checkpoints.
    """

    lambdas: tuple[float, ...]
    labelled: Labelled
    portraits: Mapping[tuple[str, float], Portrait]
    points: Mapping[tuple[str, float], Points]
    shuffled: Mapping[float, Values]
    anchors: Anchors

    def curve(self, control: str = NONE) -> Values:
        """Separation of all prompts at each lambda."""
        return np.array([self._separation(control, strength) for strength in self.lambdas])

    def difference(self, control: str = NONE) -> float:
        """At the largest lambda, minus at the smallest."""
        ends = self.lambdas[-1], self.lambdas[0]
        last, first = (self._separation(control, strength) for strength in ends)
        return last - first

    def _separation(self, control: str, strength: float) -> float:
        safe = self.labelled.safe[:, None].astype(float)
        own = self.points[control, strength]
        return float(resampling.separations(own, safe, 1 - safe)[0])

    def randoms(self) -> list[str]:
        names = dict.fromkeys(control for control, _ in self.points)
        return [name for name in names if name.startswith(RANDOM)]


Read = Callable[[tuple[str, float]], Points]


def sweep(
    points: Sequence[Point],
    read: Read,
    tuned: Points,
    labelled: Labelled,
    method: str,
    seed: int = 0,
) -> Sweep:
    """read: activations (prompts, width) under what is added (`Point.added`); one point is held at
    a time. tuned: of the other checkpoint, the second anchor. The reduction is fitted at lambda 0
    and used everywhere."""
    plain = read(next(p.added for p in points if p.strength == 0))
    reduce = reduction(method, plain) if is_fixed(method) else tsne
    wide = {(p.control, p.strength): _is_wide(p) for p in points}
    reduced: dict[tuple[str, float], Points] = {}
    portraits: dict[tuple[tuple[str, float], bool], Portrait] = {}
    for point in points:
        key = point.added
        if key not in reduced:
            reduced[key] = reduce(read(key))
        full = wide[point.control, point.strength]
        if (key, full) not in portraits:
            keyed = None if is_fixed(method) else read(key)
            portraits[key, full] = _portrait(reduced[key], labelled, full, keyed)
    lambdas = tuple(sorted({p.strength for p in points if p.control == NONE}))
    named = {(p.control, p.strength): p for p in points}
    return Sweep(
        lambdas=lambdas,
        labelled=labelled,
        portraits={name: portraits[p.added, wide[name]] for name, p in named.items()},
        points={name: reduced[p.added] for name, p in named.items()},
        shuffled=shuffled_separations(
            {s: reduced[named[NONE, s].added] for s in lambdas}, labelled, seed
        ),
        anchors=_anchors(
            reduced[next(p.added for p in points if p.strength == 0)], reduce(tuned), labelled
        ),
    )


def _is_wide(point: Point) -> bool:
    """Whether the groups are measured too: random directions only serve as a whole."""
    return not point.control.startswith(RANDOM)


def _portrait(
    points: Points, labelled: Labelled, full: bool, activations: Points | None
) -> Portrait:
    if not full:
        return portrait(points, labelled, keys=(OVERALL,))
    if activations is not None:
        keyed = {
            key: points if key == OVERALL else tsne(activations[places])
            for key, places in labelled.keys().items()
        }
        return portrait(keyed, labelled)
    return portrait(points, labelled)


def _anchors(base: Points, tuned: Points, labelled: Labelled) -> Anchors:
    ours, theirs = (indices(points, labelled.safe) for points in (base, tuned))
    return (ours.chi, ours.xb), (theirs.chi, theirs.xb)


def shuffled_separations(
    points: Mapping[float, Points], labelled: Labelled, seed: int
) -> dict[float, Values]:
    """Separations under labels shuffled within each group, the same shuffles at each lambda."""
    generator = np.random.default_rng(seed)
    names = np.asarray(labelled.groups)
    mixed = all(0 < labelled.safe[names == name].mean() < 1 for name in set(labelled.groups))
    within = [np.flatnonzero(names == name) for name in dict.fromkeys(labelled.groups)]
    parts = within if mixed else [np.arange(len(names))]
    labels = np.zeros((len(names), SHUFFLES))
    for column in range(SHUFFLES):
        for part in parts:
            labels[part, column] = generator.permutation(labelled.safe[part])
    return {
        strength: resampling.separations(own, labels, 1 - labels)
        for strength, own in points.items()
    }


def evidence(found: Sweep, seeds: int) -> Evidence:
    """What the sweep says about a trend along its vector."""
    safe = found.labelled.safe[:, None]
    drawn = found.labelled.drawn(OVERALL, np.arange(len(safe)))
    replicas = np.stack(
        [
            resampling.separations(found.points[NONE, strength], drawn * safe, drawn * ~safe)
            for strength in found.lambdas
        ]
    )
    curve, own = found.curve(), found.difference()
    randoms = [found.difference(name) for name in found.randoms()]
    around = spread(replicas[-1] - replicas[0], own)
    shuffled = found.shuffled[found.lambdas[-1]] - found.shuffled[found.lambdas[0]]
    errors = np.diff(replicas, axis=0).std(axis=1, ddof=1)
    curves = [(curve, errors), *((half, errors * 2**0.5) for half in _halves(found, seeds))]
    return Evidence(
        difference=own,
        low=around.low,
        high=around.high,
        order_p=trend.order_p(blocks(found)),
        direction_p=trend.direction_p(own, randoms),
        shuffled_p=trend.share_reaching(own, shuffled),
        beaten=trend.is_beaten(own, randoms),
        controls=len(randoms),
        monotone=all(trend.is_monotone(values, e) for values, e in curves),
        antitone=all(trend.is_monotone(values, e, rising=False) for values, e in curves),
    )


def blocks(found: Sweep, control: str = NONE) -> Values:
    """(blocks, lambdas): separation within each group; within five random parts where there are
    too few groups with both classes."""
    keys = found.labelled.keys()
    parts = [places for key, places in keys.items() if key != OVERALL]
    if len(parts) < _LEAST_GROUPS:
        parts = _parts(found.labelled.safe, _FOLDS, np.random.default_rng(0))
    return _within(found, parts, control)


def _halves(found: Sweep, seeds: int) -> Values:
    """(seeds, lambdas): separation of a random half of the prompts, another one for each seed."""
    halves = [
        _parts(found.labelled.safe, 2, np.random.default_rng(seed))[0] for seed in range(seeds)
    ]
    return _within(found, halves, NONE)


def _within(found: Sweep, parts: Sequence[NDArray[np.int_]], control: str) -> Values:
    safe = found.labelled.safe[:, None].astype(float)
    inside = np.zeros((len(safe), len(parts)))
    for column, places in enumerate(parts):
        inside[places, column] = 1.0
    at_each = [
        resampling.separations(found.points[control, s], inside * safe, inside * (1 - safe))
        for s in found.lambdas
    ]
    return np.stack(at_each, axis=1)


def _parts(
    safe: NDArray[np.bool_], count: int, generator: np.random.Generator
) -> list[NDArray[np.int_]]:
    """Random parts with equal shares of both classes."""
    sides = [generator.permutation(np.flatnonzero(side)) for side in (safe, ~safe)]
    return [
        np.concatenate([side[part::count] for side in sides]).astype(np.int_)
        for part in range(count)
    ]


def significant_randoms(found: Sweep) -> int:
    """How many random directions stand out among the others as a trend of its own would."""
    names = found.randoms()
    values = {name: found.difference(name) for name in names}
    return sum(
        trend.direction_p(values[name], others) <= trend.DIRECTION_ALPHA
        and trend.is_beaten(values[name], others)
        for name in names
        if (others := [values[other] for other in names if other != name])
    )


def significant_shuffles(found: Sweep) -> int:
    """How many shuffled labels have a difference like that of the true ones, or a larger one."""
    shuffled = found.shuffled[found.lambdas[-1]] - found.shuffled[found.lambdas[0]]
    return int((np.abs(shuffled) >= abs(found.difference())).sum())


def flags(found: Sweep, result: Evidence, method: str) -> tuple[str, ...]:
    """What to know before trusting the numbers."""
    marks = ["aqi_repo_relative"]
    own = [found.portraits[NONE, strength] for strength in found.lambdas]
    scores = [one.repo[OVERALL] for one in own if OVERALL in one.repo]
    values = [round(score.aqi, 6) for score in scores]
    if any(score.saturated for score in scores):
        marks.append("aqi_repo_saturated")
    if any(score.at_floor for score in scores):
        marks.append("aqi_repo_at_floor")
    if len(set(values)) < len(values):
        marks.append("aqi_repo_repeated")
    if all(one.overall.probe_auc >= 1 for one in own):
        marks.append("probe_auc_at_ceiling")
    if not is_fixed(method):
        marks.append("reduction_not_fixed")
    if result.controls < trend.LEAST_CONTROLS:
        marks.append("too_few_controls")
    if len(found.lambdas) < 4:
        marks.append("few_lambdas")
    opposite = found.difference(NEGATED)
    if opposite * result.difference > 0 and abs(opposite) >= abs(result.difference) / 2:
        marks.append("opposite_direction_does_the_same")
    return tuple(marks)
