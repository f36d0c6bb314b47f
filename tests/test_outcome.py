"""Whether a training that ended well also trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import registry
from harness.outcome import moved, not_trained
from harness.trainer import OUTCOME, write_step


def outcome(folder: Path, losses: list[float], *, changed: bool = True, skipped: int = 0) -> object:
    (folder / OUTCOME).write_text(json.dumps({"weights_changed": changed}))
    for step, loss in enumerate(losses, 1):
        write_step(folder, step, {"loss": loss, "skipped_steps": float(skipped)})
    return not_trained(folder, registry.trainer("sft"))


def test_a_falling_loss_is_a_training(tmp_path: Path) -> None:
    assert outcome(tmp_path, [3.0, 2.0, 1.0]) == ()


def test_weights_that_did_not_change_are_no_training(tmp_path: Path) -> None:
    assert outcome(tmp_path, [3.0, 2.0], changed=False) == ("not_trained=weights_unchanged",)


def test_a_constant_loss_is_no_training(tmp_path: Path) -> None:
    assert outcome(tmp_path, [2.0, 2.0, 2.0]) == ("not_trained=loss_not_moved",)


def test_steps_that_were_mostly_skipped_are_no_training(tmp_path: Path) -> None:
    assert outcome(tmp_path, [3.0, 2.0, 1.0], skipped=2) == ("not_trained=steps_skipped",)


@pytest.mark.parametrize(("drift", "moves"), [(0.0, False), (-0.02, True)])
def test_over_many_steps_noise_is_no_movement(drift: float, moves: bool) -> None:
    noise = [0.1 if step % 2 else -0.1 for step in range(100)]
    assert moved([2 + drift * step + noise[step] for step in range(100)]) is moves
