"""Indices and scores against worked examples, scikit-learn and 36 published runs."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from harness.geometry import distances, resampling
from harness.geometry.distances import silhouettes
from harness.geometry.indices import indices
from harness.geometry.measuring import Labelled, flags_of, measures, portrait
from harness.geometry.probe import auc, probe_scores
from harness.geometry.reduction import reduction
from harness.geometry.scores import aqi_anchor, aqi_repo

REFERENCE = Path(__file__).resolve().parent.parent / "leaderboards" / "reference"

# Safe points first, three of each class: two clouds apart, two that overlap, two mixed ones.
SETS = {
    "A": [(0, 0), (1, 0), (0, 1), (4, 4), (5, 4), (4, 5)],
    "B": [(0, 0), (2, 0), (0, 2), (1, 1), (3, 1), (1, 3)],
    "C": [(0, 0), (3, 0), (0, 3), (3, 3), (1, 0), (0, 1)],
}
# chi, xb, silhouette, davies_bouldin, dunn, chi_norm, xb_norm, aqi
WORKED = {
    "A": (
        72.0,
        0.0138888889,
        0.8003016549,
        0.2312376478,
        3.5355339059,
        100.0,
        54.3298971877,
        77.1649485938,
    ),
    "B": (
        1.125,
        0.8888888889,
        -0.0476173329,
        1.8499011823,
        0.5,
        1.4769765421,
        49.1473854536,
        25.3121809979,
    ),
    "C": (0.0625, 16.0, -0.2033338592, 7.7725949585, 0.2357022604, 0.0, 10.0, 5.0),
    "overall": (
        6.6493506494,
        0.6015625,
        0.1743385638,
        1.4115457812,
        0.0,
        9.1563519018,
        50.8526145461,
        30.0044832241,
    ),
}


def labelled_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    half = np.array([True] * 3 + [False] * 3)
    sets = {key: (np.array(points, dtype=float), half) for key, points in SETS.items()}
    whole = np.concatenate([points for points, _ in sets.values()])
    return {**sets, "overall": (whole, np.tile(half, 3))}


def test_indices_and_scores_equal_the_worked_example() -> None:
    found = {key: indices(points, safe) for key, (points, safe) in labelled_sets().items()}
    scores = aqi_repo({key: (one.chi, one.xb) for key, one in found.items()})
    for key, expected in WORKED.items():
        one, score = found[key], scores[key]
        got = (one.chi, one.xb, one.silhouette, one.davies_bouldin, one.dunn)
        scaled = (score.chi_norm, score.xb_norm, score.aqi)
        assert (*got, *scaled) == pytest.approx(expected, abs=1e-6)


def test_unequal_classes_equal_the_worked_example() -> None:
    points, safe = np.array([*SETS["A"], (6, 6)], dtype=float), np.array([True] * 3 + [False] * 4)
    one = indices(points, safe)
    got = (one.chi, one.xb, one.silhouette, one.davies_bouldin)
    assert got == pytest.approx((48.937282230, 0.025021614, 0.760434435, 0.281203878), abs=1e-6)


def test_xie_beni_times_calinski_harabasz_depends_on_counts_alone() -> None:
    generator = np.random.default_rng(0)
    for n_safe, n_unsafe, width in [(3, 4, 2), (20, 20, 5), (7, 50, 3), (100, 13, 40)]:
        points = generator.normal(size=(n_safe + n_unsafe, width))
        one = indices(points, np.arange(len(points)) < n_safe)
        n = n_safe + n_unsafe
        assert one.xb * one.chi == pytest.approx((n - 2) * n_safe * n_unsafe / n**2, rel=1e-9)


def test_indices_equal_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    points = generator.normal(size=(60, 6)) + 1000.0  # a large common part must not cost digits
    safe = generator.random(60) < 0.4
    points[safe] += 0.7
    one = indices(points, safe)
    assert (one.chi, one.davies_bouldin, one.silhouette) == pytest.approx(
        (
            sklearn_metrics.calinski_harabasz_score(points, safe),
            sklearn_metrics.davies_bouldin_score(points, safe),
            sklearn_metrics.silhouette_score(points, safe),
        ),
        rel=1e-9,
    )


def test_centroids_in_one_place_are_not_apart() -> None:
    one = indices(np.array([[0.0], [2.0], [1.0], [1.0]]), np.array([True, True, False, False]))
    assert (one.xb, one.separation) == (math.inf, 0.0)


Keys = dict[str, dict[str, float]]


def published() -> dict[tuple[str, int], Keys]:
    """Columns by (source, prompts) and key of the 36 runs of the D-STEER repository."""
    runs: dict[tuple[str, int], Keys] = defaultdict(lambda: defaultdict(dict))
    with (REFERENCE / "dsteer_aqi_runs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["experiment"] in ("phase3", "phase1_instruct_baseline"):
                prompts = int(row["extra_params"].split("n_samples=")[1].split(";")[0])
                keys = runs[row["source"], prompts]
                keys[row["task"].removeprefix("aqi/")][row["metric"]] = float(row["value"])
    return runs


def farthest(keys: Keys, raw: dict[str, tuple[float, float]]) -> dict[str, float]:
    scores = aqi_repo(raw)
    names = ("chi_norm", "xb_norm", "aqi")
    return {
        name: max(abs(getattr(score, name) - keys[key][name]) for key, score in scores.items())
        for name in names
    }


def test_scores_of_all_published_runs_follow_from_their_raw_columns() -> None:
    runs = published()
    assert (len(runs), {len(keys) for keys in runs.values()}) == (36, {8})
    for keys in runs.values():
        raw = {key: (one["chi_raw"], one["xb_raw"]) for key, one in keys.items()}
        overall = abs(aqi_repo(raw)["overall"].aqi - keys["overall"]["aqi"])
        far = farthest(keys, raw)
        # Published XB has four decimals, which small ones feel: the reported score does not.
        assert (overall < 0.01, far["chi_norm"] < 1e-3, far["xb_norm"] < 0.03) == (True,) * 3


def test_published_runs_are_exact_where_xie_beni_is_taken_from_calinski_harabasz() -> None:
    """The two are one number, and CHI was published with more digits."""
    for (_, prompts), keys in published().items():
        n = {key: prompts if key == "overall" else prompts // 7 for key in keys}
        raw = {
            key: (one["chi_raw"], (n[key] - 2) / 4 / one["chi_raw"]) for key, one in keys.items()
        }
        assert farthest(keys, raw)["aqi"] < 2e-4


def test_saturated_and_floor_values_of_published_runs_are_seen() -> None:
    chi = (146.5054, 110.3381, 108.2877, 76.8821, 70.8833, 100.4309, 107.5370, 344.8824)
    xb = (0.3379, 0.4486, 0.4571, 0.6438, 0.6983, 0.4929, 0.4603, 1.0134)
    scores = aqi_repo({str(i): pair for i, pair in enumerate(zip(chi, xb, strict=True))})
    assert (scores["7"].aqi, scores["7"].saturated, scores["0"].saturated) == (55.0, True, False)
    assert aqi_repo({"one": (3.0, 1.0)})["one"].chi_norm == 50.0
    assert aqi_repo({"a": (math.inf, 0.0)}) == {}


def test_anchors_always_score_the_same_and_others_lie_on_their_scale() -> None:
    anchors = ((20.0, 0.08), (50.0, 0.04))
    got = [aqi_anchor(*pair, anchors) for pair in (*anchors, (40.0, 0.05))]
    assert got == pytest.approx([26.8941421370, 73.1058578630, 60.2514768832], abs=1e-6)


def test_resampled_indices_equal_the_indices_of_the_resample() -> None:
    generator = np.random.default_rng(2)
    points, safe = generator.normal(size=(40, 3)), np.arange(40) % 2 == 0
    drawn = resampling.counts(["a", "b"] * 10 + ["b", "a"] * 10, safe, n=5)
    scores = probe_scores(points, safe)
    for column in range(5):
        taken = np.repeat(np.arange(40), drawn[:, column].astype(int))
        own, side = points[taken], safe[taken]
        one = indices(own, side)
        picked = drawn[:, [column]]
        weights = picked * safe[:, None], picked * ~safe[:, None]
        got = (
            resampling.separations(points, *weights)[0],
            resampling.silhouette_means(points, safe, picked)[0],
            resampling.davies_bouldins(points, safe, picked)[0],
            resampling.aucs(scores, safe, picked)[0],
        )
        expected = (
            one.separation,
            silhouettes(own, side).mean(),
            one.davies_bouldin,
            auc(scores[taken], side),
        )
        assert got == pytest.approx(expected, rel=1e-6)


def test_a_block_of_distances_at_a_time_gives_the_same_indices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(7)
    points, safe = generator.normal(size=(41, 3)), np.arange(41) % 3 == 0
    drawn = resampling.counts(["a"] * 41, safe, n=5)

    def found() -> tuple[Any, ...]:
        one = indices(points, safe)
        means = resampling.silhouette_means(points, safe, drawn)
        return one.silhouette, one.dunn, *means

    whole = found()
    monkeypatch.setattr(distances, "_BLOCK", 41 * 6)
    assert [rows.stop - rows.start for rows, _ in distances.blocks(points)] == [6] * 6 + [5]
    assert found() == pytest.approx(whole, rel=1e-12)


def test_resamples_draw_groups_whole_and_keep_both_classes() -> None:
    safe = np.array([True, False] * 10)
    mixed = resampling.counts([str(i // 4) for i in range(20)], safe, n=50)
    apart = resampling.counts(["s", "u"] * 10, safe, n=50)
    assert ((mixed == 0).reshape(5, 4, 50).all(axis=1)).any()  # some group was not drawn at all
    for drawn in (mixed, apart):
        assert (drawn[safe].sum(axis=0) == 10).all()
        assert (drawn[~safe].sum(axis=0) == 10).all()


def test_probe_finds_a_line_and_not_noise() -> None:
    generator = np.random.default_rng(3)
    safe = np.arange(200) % 2 == 0
    noise = generator.normal(size=(200, 10))
    assert abs(auc(probe_scores(noise, safe), safe) - 0.5) < 0.15
    noise[safe, 0] += 8.0
    assert auc(probe_scores(noise, safe), safe) > 0.99


def test_portrait_measures_all_prompts_and_each_group_with_intervals() -> None:
    generator = np.random.default_rng(4)
    safe = np.arange(120) % 2 == 0
    groups = tuple("ab"[i // 60] if i < 118 else "rare" for i in range(120))
    points = generator.normal(size=(120, 8))
    points[safe] += 1.0
    found = {
        (m.metric, m.group): m
        for m in measures(portrait(points, Labelled(safe=safe, groups=groups)))
    }
    assert {group for _, group in found} == {"", "a", "b"}
    one = found["separation", ""]
    assert one.n == 120
    assert one.ci_low < one.value < one.ci_high
    assert one.stderr > 0
    assert found["probe_auc", "a"].value > 0.8


def test_single_key_and_perfect_probe_are_flagged() -> None:
    generator = np.random.default_rng(5)
    safe = np.arange(40) % 2 == 0
    points = generator.normal(size=(40, 2))
    points[safe] += 20.0
    found = portrait(points, Labelled(safe=safe, groups=("",) * 40))
    assert flags_of(found) == (
        "aqi_repo_relative",
        "aqi_repo_single_key",
        "probe_auc_at_ceiling",
    )


def test_principal_components_are_fitted_once_and_reused() -> None:
    generator = np.random.default_rng(6)
    reference, other = generator.normal(size=(30, 80)), generator.normal(size=(10, 80))
    reduce = reduction("pca", reference)
    assert reduce(reference).shape == (30, 30)
    both = reduce(np.concatenate([reference, other]))
    assert both[30:] == pytest.approx(reduce(other))


@pytest.mark.slow
def test_umap_is_fitted_once_and_reused() -> None:
    pytest.importorskip("umap", reason="pip install 'tunebench[umap]'")
    generator = np.random.default_rng(8)
    safe = np.arange(60) % 2 == 0
    reference = generator.normal(size=(60, 20))
    reference[safe] += 3.0
    reduce = reduction("umap", reference)
    placed = reduce(reference)
    assert placed.shape == (60, 3)
    assert reduce(reference).tolist() == placed.tolist()
    assert indices(placed, safe).silhouette > 0.3
