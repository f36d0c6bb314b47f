"""Trainings that are looked at on the way: what they tell, when they end, and that it costs
nothing that is learnt."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch
import training
from safetensors.torch import load_file

from harness.trainer import ANSWERS, CHECKPOINT, HELD_OUT, POINTS, REACHED
from harness.types import JSON
from trainers import points, sft


def folder_with_points(folder: Path, answers: list[JSON], *, wait: bool = True) -> Path:
    """A training of 6 steps with 3 points, whose answers are there already."""
    place = training.training_folder(folder, "sft", training.word_problems(48), max_steps=6)
    asked = {"count": 3, "save": "all", "wait": wait}
    (place / POINTS).write_text(json.dumps(asked))
    held_out = training.word_problems(10, seed=2)
    (place / HELD_OUT).write_text("".join(json.dumps(one) + "\n" for one in held_out))
    (place / ANSWERS).write_text("".join(json.dumps(one) + "\n" for one in answers))
    return place


def reached(folder: Path) -> list[JSON]:
    lines = (folder / REACHED).read_text().splitlines()
    assert json.loads(lines[0]).keys() == {"began"}
    return [json.loads(line) for line in lines[1:]]


GO_ON = [{"point": point, "stop": False} for point in (1, 2, 3)]


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_with_points(tmp_path_factory.mktemp("points") / "run", GO_ON)
    sft.main(folder)
    return folder


def test_a_training_with_points_learns_what_it_learns_without(
    looked_at: Path, tmp_path: Path
) -> None:
    plain = training.training_folder(tmp_path / "p", "sft", training.word_problems(48), max_steps=6)
    sft.main(plain)
    assert training.measures(looked_at)["loss"] == training.measures(plain)["loss"]
    ends = [
        load_file(place / "model.safetensors")
        for place in (looked_at / "points" / "6", plain / CHECKPOINT)
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def test_points_tell_step_and_weights_and_loss(looked_at: Path) -> None:
    told = reached(looked_at)
    assert [(one["point"], one["step"]) for one in told] == [(1, 2), (2, 4), (3, 6)]
    assert [Path(one["checkpoint"]).name for one in told] == ["2", "4", "6"]
    assert len({one["loss"] for one in told}) == 3
    assert not (looked_at / CHECKPOINT).exists()


def test_the_loss_of_a_point_is_the_mean_over_held_out_tokens(looked_at: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        looked_at / "points" / "6", dtype=torch.float32
    )
    rows = training.demonstrations(10, seed=2)
    total, count = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        learnt = labels != -100
        total -= float(logprobs[learnt].gather(1, labels[learnt][:, None]).sum())
        count += int(learnt.sum())
    assert reached(looked_at)[2]["loss"] == pytest.approx(total / count, abs=1e-5)


def test_a_training_that_is_told_to_stop_ends_at_that_point(tmp_path: Path) -> None:
    answers = [GO_ON[0], {"point": 2, "stop": True}]
    folder = folder_with_points(tmp_path / "run", answers)
    sft.main(folder)
    assert [one["step"] for one in reached(folder)] == [2, 4]


def test_a_training_waits_for_its_answer(tmp_path: Path) -> None:
    folder = folder_with_points(tmp_path / "run", GO_ON[:1])
    thread = threading.Thread(target=sft.main, args=[folder], daemon=True)
    thread.start()
    while (
        len((folder / REACHED).read_text().splitlines() if (folder / REACHED).exists() else ()) < 3
    ):
        time.sleep(0.01)
    assert thread.is_alive()
    with (folder / ANSWERS).open("a") as file:
        file.write(json.dumps({"point": 2, "stop": True}) + "\n")
    thread.join()
    assert [one["step"] for one in reached(folder)] == [2, 4]


def test_a_training_that_does_not_wait_goes_on_without_answers(tmp_path: Path) -> None:
    folder = folder_with_points(tmp_path / "run", [], wait=False)
    sft.main(folder)
    assert [one["step"] for one in reached(folder)] == [2, 4, 6]


def test_points_are_as_far_into_a_short_training_as_into_a_long_one() -> None:
    assert points.spread(9, 900) == {100 * point: point for point in range(1, 10)}
    assert points.spread(9, 4) == {1: 4, 2: 6, 3: 8, 4: 9}
    assert points.spread(1, 7) == {7: 1}
