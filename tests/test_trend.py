"""The verdict on a sweep: what counts as a trend, and how often chance is taken for one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import causal_model

from harness.engines.activations import Activations, Wanted
from harness.engines.steering import Steering
from harness.engines.trie import pack
from harness.geometry import trend
from harness.geometry.measuring import Labelled
from harness.geometry.trend import Evidence
from harness.steering import analysis
from harness.steering.analysis import Sweep
from harness.steering.points import NONE, RANDOM
from harness.types import ModelSpec

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLEAR = Evidence(
    difference=1.0,
    low=0.5,
    high=1.5,
    order_p=0.01,
    direction_p=0.001,
    shuffled_p=0.005,
    beaten=True,
    controls=19,
    monotone=True,
    antitone=False,
)


def test_five_points_in_order_are_as_rare_as_two_of_120_orders() -> None:
    assert trend.order_p(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])) == pytest.approx(2 / 120)
    assert trend.order_p(np.array([[1.0, 1.0, 1.0, 1.0, 1.0]])) == 1.0


def test_blocks_that_agree_are_rarer_than_one_alone() -> None:
    assert trend.order_p(np.tile([1.0, 2.0, 3.0, 4.0, 5.0], (7, 1))) < 0.001
    generator = np.random.default_rng(0)
    assert trend.order_p(generator.normal(size=(7, 5))) > 0.05


def test_a_step_back_within_two_standard_errors_is_none() -> None:
    values, errors = np.array([0.0, 1.0, 0.9]), np.array([0.1, 0.06])
    assert trend.is_monotone(values, errors)
    assert not trend.is_monotone(values, errors / 2)
    assert not trend.is_monotone(values, errors, rising=False)


@pytest.mark.parametrize(
    ("changes", "verdict", "decision"),
    [
        ({}, "rises", "expand"),
        ({"monotone": False}, "erratic", "next rung"),
        ({"difference": -1.0, "low": -1.5, "high": -0.5, "antitone": True}, "falls", "next rung"),
        ({"low": -0.1}, "flat", "next rung"),
        ({"order_p": 0.06}, "flat", "next rung"),
        ({"direction_p": 0.02}, "flat", "next rung"),
        ({"beaten": False}, "flat", "next rung"),
        ({"shuffled_p": 0.2}, "flat", "next rung"),
        ({"controls": 18}, "undecided", "next rung"),
    ],
)
def test_every_condition_of_a_verdict_is_needed(
    changes: dict[str, Any], verdict: str, decision: str
) -> None:
    found = replace(CLEAR, **changes)
    assert (found.verdict, found.decision) == (verdict, decision)


def steered_points(directions: int, strengths: tuple[float, ...]) -> tuple[list[Any], Labelled]:
    """Activations [direction][strength] of a random model along random directions, and labels that
    its activations already tell apart a little."""
    width, generator = 32, torch.Generator().manual_seed(1)
    model = causal_model("llama", 64)
    safe = np.arange(60) % 2 == 0
    texts = [
        pack([*torch.randint(2, 64, (7,), generator=generator).tolist(), 5 if side else 6])
        for side in safe
    ]
    drawn = torch.randn(directions, width, generator=generator)
    steerings: list[Steering | None] = [None]
    for vector in drawn:
        scaled = {1: 6.0 * vector / vector.norm()}
        steerings += [Steering(vectors=scaled, strength=s) for s in strengths if s]
    at = np.zeros((len(steerings), 60, width))
    for one in Activations(model, ModelSpec(name="r", path="r")).take(
        texts, Wanted(layers=(1,), pooling="mean"), steerings
    ):
        at[one.steering, one.rows] = one.vectors[:, 0].numpy()
    steps = len(strengths) - 1
    found = [
        {0.0: at[0], **dict(zip(strengths[1:], at[1 + i * steps :][:steps], strict=True))}
        for i in range(directions)
    ]
    return found, Labelled(safe=safe, groups=tuple("abcde"[i // 12] for i in range(60)))


def test_random_vectors_are_taken_for_a_trend_in_at_most_5_percent_of_200_trials() -> None:
    own, labelled = steered_points(200, LAMBDAS)
    generator = np.random.default_rng(2)
    trends = 0
    for trial, curve in enumerate(own):
        others = generator.choice([i for i in range(200) if i != trial], size=19, replace=False)
        points = {(NONE, s): curve[s] for s in LAMBDAS}
        for number, other in enumerate(others):
            points |= {(f"{RANDOM}_{number}", s): own[other][s] for s in (0.0, 1.0)}
        ends = {s: curve[s] for s in LAMBDAS}
        found = Sweep(
            lambdas=LAMBDAS,
            labelled=labelled,
            portraits={},
            points=points,
            shuffled=analysis.shuffled_separations(ends, labelled, seed=trial),
            anchors=((1.0, 1.0), (2.0, 0.5)),
        )
        trends += analysis.evidence(found, seeds=3).verdict in ("rises", "falls", "erratic")
    assert trends <= 10
