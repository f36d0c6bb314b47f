"""Whole trainings of the embedded model, in processes of their own: each method does what it is
for, and does it alike under every launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from harness import store
from harness.errors import UsageError
from harness.evaluate import evaluate
from harness.trainer import CHECKPOINT, read_recipe
from tests.training import (
    TINY,
    rightly_and_wrongly,
    train_in_processes,
    training_folder,
    word_problems,
)
from trainers import asft, sft_kl

LEARNING = {"learning_rate": 7e-4, "schedule": "cosine", "warmup_ratio": 0.05}


def accuracies(home: Path, models: list[Path]) -> list[float]:
    runs = evaluate([str(model) for model in models], ["arithmetic"], home=home, limit=100)
    sql = "SELECT value FROM measures WHERE run_id = '{}' AND metric = 'strict_match'"
    return [float(store.query(home, sql.format(run.run_id))[1][0][0]) for run in runs]


@pytest.mark.slow
def test_sft_dft_and_asft_teach_arithmetic(tmp_path: Path) -> None:
    """Tiny/base answers a bit more than a third of the questions."""
    options = {"epochs": 2.0, "global_batch_size": 16, "micro_batch_size": 16, "log_steps": 12}
    folders = [
        training_folder(
            tmp_path / name, name, word_problems(384), optimizer=dict(LEARNING), **options
        )
        for name in ("sft", "dft", "asft")
    ]
    curves = train_in_processes(*folders)
    models = [TINY, *(folder / CHECKPOINT for folder in folders)]
    before, *after = accuracies(tmp_path / "home", models)
    assert min(after) >= before + 0.2, (before, after)
    assert all(curve["loss"][-1] < curve["loss"][0] for curve in curves)
    # Held close to the start, but not so close that nothing changed.
    assert 0.001 < curves[2]["kl"][-1] < 1.0


@pytest.mark.slow
def test_dpo_of_both_kinds_raises_reward_margin_and_accuracy(tmp_path: Path) -> None:
    options = {"epochs": 3.0, "global_batch_size": 16, "micro_batch_size": 16}
    folders = [
        training_folder(
            tmp_path / name,
            name,
            rightly_and_wrongly(64),
            optimizer={"learning_rate": 1e-4, "schedule": "constant"},
            **options,
        )
        for name in ("dpo", "dpo_norm")
    ]
    for curve in train_in_processes(*folders):
        assert curve["rewards/margins"][0] == pytest.approx(0, abs=1e-4)
        assert curve["rewards/margins"][-1] > 0.1
        assert curve["rewards/accuracies"][-1] > 0.9
        assert curve["loss"][-1] < curve["loss"][0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    return curves_of(tmp_path_factory.mktemp("alone"), "single", 1)


def curves_of(place: Path, launcher: str, processes: int) -> list[dict[str, list[float]]]:
    """SFT and ASFT with batches of 8 in micro-batches of 2."""
    folders = [
        training_folder(
            place / method,
            method,
            word_problems(32),
            max_steps=4,
            micro_batch_size=2,
            launcher=launcher,
            num_processes=processes,
            optimizer={
                "learning_rate": 1e-3,
                "schedule": "linear",
                "warmup_ratio": 0.25,
                "min_lr_ratio": 0.1,
                "weight_decay": 0.01,
            },
        )
        for method in ("sft", "asft")
    ]
    return train_in_processes(*folders, processes=processes)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp", "zero2", "zero3"])
def test_two_processes_follow_the_curve_of_one(
    tmp_path: Path, alone: list[dict[str, list[float]]], launcher: str
) -> None:
    if launcher != "ddp":
        pytest.importorskip("deepspeed")
    for one, two in zip(alone, curves_of(tmp_path, launcher, 2), strict=True):
        assert len(one["loss"]) == 4
        for measure in ("loss", "grad_norm", "kl"):
            assert two.get(measure, []) == pytest.approx(one.get(measure, []), abs=1e-3)
        # Warmed up in one step, then down a line to a tenth: nobody is a step ahead.
        for curve in (one, two):
            assert curve["learning_rate"] == pytest.approx([0, 1e-3, 7e-4, 4e-4], rel=1e-6)
        assert max(one["loss"]) - min(one["loss"]) > 0.01


@pytest.mark.parametrize(
    ("method", "params", "changes", "message"),
    [
        (asft, {"reference": "none"}, {}, "asft has nothing to stay close to"),
        (asft, {"reference": "adapters_off"}, {}, "there are no adapters"),
        (asft, {"kl_weight": 0.0}, {}, "asft needs one above 0"),
        (sft_kl, {"kl_weight": -1.0}, {}, "sft_kl needs one above 0"),
        (asft, {"reference": "cache", "packing": "documents"}, {}, "packing mixes these"),
        (asft, {"reduction": "sequence", "packing": "documents"}, {}, "hold several examples"),
    ],
)
def test_a_divergence_from_nothing_is_refused_before_a_model_is_loaded(
    tmp_path: Path, method: Any, params: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    folder = training_folder(tmp_path / "run", method.TRAINER.name, [], params=params, **changes)
    with pytest.raises(UsageError, match=message):
        method.check(read_recipe(folder))
