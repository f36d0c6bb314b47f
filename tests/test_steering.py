"""`bench steer`: what is refused first, what is taken, cached, stored and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_folder import write_checkpoint

from harness import activation_file, runs
from harness.embedding_options import prompts_dataset
from harness.engines.base import parse_settings
from harness.engines.steer_settings import parse_layers
from harness.errors import BenchError, UsageError
from harness.evaluate import evaluate
from harness.steering import vectors
from harness.steering.experiment import Swept, steer
from harness.steering.planning import SteerOptions, checked
from harness.steering.points import parse_lambdas, points
from harness.steering.texts import rendered
from harness.types import Dataset

SMALL: dict[str, Any] = {"offline_sample": True, "controls": 2, "seeds": 1}


def refused(home: Path, model: str = "Tiny", lambdas: str = "0,1", **changes: Any) -> str:
    with pytest.raises(BenchError) as caught:
        checked(model, lambdas, SteerOptions(**{**SMALL, **changes}), home)
    assert caught.value.hint
    return caught.value.message


def test_difference_and_cosines_equal_the_worked_example() -> None:
    base = np.array([[[0.0, 0.0, 0.0]], [[2.0, 0.0, -1.0]]])
    tuned = np.array([[[1.0, 0.0, 1.0]], [[3.0, 2.0, 1.0]]])
    assert vectors.difference(base, tuned).tolist() == [[1.0, 1.0, 1.5]]
    assert vectors.cosines(base, tuned).ravel() == pytest.approx([0.0, 0.5976142287], abs=1e-6)


def test_svd_vector_is_as_long_as_the_mean_and_points_its_way() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=(40, 2, 6))
    tuned = base + np.array([3.0, 0, 0, 0, 0, 0]) + 0.1 * generator.normal(size=(40, 2, 6))
    mean, svd = (vectors.difference(base, tuned, method) for method in ("mean", "svd"))
    assert np.linalg.norm(svd, axis=1) == pytest.approx(np.linalg.norm(mean, axis=1))
    assert (svd * mean).sum() > 0.99 * (mean * mean).sum()


def test_random_directions_are_as_long_as_the_vector_of_each_layer() -> None:
    own = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    drawn = vectors.random_like(own, seed=1)
    assert np.linalg.norm(drawn, axis=1) == pytest.approx([5.0, 1.0])
    assert not np.allclose(drawn, vectors.random_like(own, seed=2))


def test_points_hold_the_vector_its_opposite_and_random_directions() -> None:
    made = list(points((0.0, 0.5, 1.0), controls=2))
    assert [(p.control, p.strength, p.added) for p in made] == [
        ("none", 0.0, ("unsteered", 0.0)),
        ("none", 0.5, ("v", 0.5)),
        ("none", 1.0, ("v", 1.0)),
        ("negated", 0.0, ("unsteered", 0.0)),
        ("negated", 0.5, ("v", -0.5)),
        ("negated", 1.0, ("v", -1.0)),
        ("random_1", 0.0, ("unsteered", 0.0)),
        ("random_1", 0.5, ("random_1", 0.5)),
        ("random_1", 1.0, ("random_1", 1.0)),
        ("random_2", 0.0, ("unsteered", 0.0)),
        ("random_2", 1.0, ("random_2", 1.0)),
    ]


def test_lambdas_and_layers_are_read_as_typed() -> None:
    assert parse_lambdas("1, 0.5,1,-0.0") == (0.0, 0.5, 1.0)
    assert parse_lambdas("-1,1") == (-1.0, 0.0, 1.0)
    assert parse_layers("-5:-3,2") == (-5, -4, -3, 2)


@pytest.mark.parametrize("text", ["a", "0,nan", "0,,1", "2", "-1.01", "0", "inf", ""])
def test_lambda_that_is_no_number_between_minus_1_and_1_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_lambdas(text)


@pytest.mark.parametrize("text", ["", "x", "1.5", "3:1", "1,,2"])
def test_layers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_layers(text)


def test_dialogues_are_rendered_as_d_steer_does() -> None:
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"}
    assert rendered(row, "chosen") == "Human: a\nAssistant: b\nHuman: c\nAssistant:d"
    assert rendered({"prompt": "q", "chosen": "a"}, "chosen") == "Human: q\nAssistant:a"


def test_single_model_is_refused_where_a_pair_is_needed(tmp_path: Path) -> None:
    assert "single model" in refused(tmp_path, "Tiny/base")
    assert "names 1 model" in refused(tmp_path, "Tiny/base,")


@pytest.mark.parametrize(
    ("what", "changes"), [("depth", {"num_hidden_layers": 3}), ("width", {"hidden_size": 16})]
)
def test_sides_of_another_shape_are_named(what: str, changes: Any, tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "one")
    other = write_checkpoint(tmp_path / "other", **changes)
    assert f"differ in {what}" in refused(tmp_path, f"{one},{other}")


def test_sides_with_another_tokenizer_are_named(tmp_path: Path) -> None:
    sides = [write_checkpoint(tmp_path / name) for name in ("one", "other")]
    for side, ids in zip(sides, ({"a": 0, "b": 1}, {"a": 1, "b": 0}), strict=True):
        (side / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids}}))
    message = refused(tmp_path, f"{sides[0]},{sides[1]}")
    assert message.endswith("differ in their tokenizer: `a` is 0 and 1")


def test_layers_that_do_not_exist_and_unknown_values_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, layers="4") == "`Tiny/base` has no layer 4"
    assert refused(tmp_path, aqi_layers="-5") == "`Tiny/base` has no layer -5"
    assert "`--mode quick`" in refused(tmp_path, mode="quick")
    assert "`--norm loose`" in refused(tmp_path, norm="loose")
    assert "pooling `max`" in refused(tmp_path, pooling="max")
    assert "0 tasks that take activations" in refused(tmp_path, tasks="arithmetic")
    assert "too few" in refused(tmp_path, controls=0)


def test_layers_that_a_model_lacks_are_refused_before_it_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no layer 9"):
        evaluate("Tiny", "aqi", home=tmp_path, offline_sample=True, layers="9")
    assert not list(tmp_path.glob("runs/2*"))


def test_too_few_prompts_of_a_class_and_other_labels_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"

    def written(labels: list[str]) -> str:
        rows = [{"prompt": f"p {i}", "label": label} for i, label in enumerate(labels)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return refused(tmp_path, prompts=str(file))

    assert written(["safe"] * 30 + ["unsafe"] * 9).startswith("there are 9 unsafe prompts")
    assert "neither safe nor unsafe" in written(["safe"] * 30 + ["toxic"])
    file.write_text('{"prompt": "p"}\n')
    assert "no column `safety_label`" in refused(tmp_path, prompts=str(file))


def test_prompts_and_texts_that_cannot_be_reached_name_the_way_to_give_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for changes in ({"offline_sample": False}, {"texts": str(tmp_path / "none.jsonl")}):
        with pytest.raises(BenchError) as caught:
            checked("Tiny", "0,1", SteerOptions(**{**SMALL, **changes}), tmp_path)
        assert "FILE" in caught.value.hint


def test_prompts_option_is_a_file_or_a_split_of_a_dataset() -> None:
    assert prompts_dataset("org/name:balanced:test") == Dataset(
        path="org/name", config="balanced", split="test"
    )
    assert prompts_dataset("org/name").split == "train"
    assert prompts_dataset("tunebench:safety.jsonl:test") == Dataset(
        path="tunebench:safety.jsonl", split="test"
    )
    with pytest.raises(UsageError):
        prompts_dataset("org/name:a:b:c")


def test_steering_settings_are_checked_and_name_their_file_by_content(tmp_path: Path) -> None:
    file = tmp_path / "v.npz"
    file.write_bytes(b"x")
    given = {"steer": str(file), "steer_lambda": "0.5"}
    assert len(parse_settings("hf", given)["steer_sha256"]) == 64
    for wrong in (
        {"steer_lambda": "0.5"},
        {**given, "steer_lambda": "nan"},
        {**given, "steer_norm": "maybe"},
        {**given, "steer": str(tmp_path / "none.npz")},
        {**given, "steer_layers": "x"},
        {"steer": str(file)},
    ):
        with pytest.raises(UsageError):
            parse_settings("hf", wrong)


def test_activation_files_lose_only_a_torn_record(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    activation_file.append(path, [2, 0], values[[2, 0]])
    with path.open("ab") as file:
        file.write(b"torn")
    assert activation_file.places(path, 4) == {0, 2}
    activation_file.append(path, [1], values[[1]])
    assert activation_file.read(path, 3, 2, 2).tolist() == values.tolist()
    with pytest.raises(ValueError, match="lacks"):
        activation_file.read(path, 4, 2, 2)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Swept]:
    home = tmp_path_factory.mktemp("home")
    options = {**SMALL, "tasks": "aqi,arithmetic", "limit": 40, "layers": "2,3"}
    return home, steer("Tiny", "0,1", home=home, **options)


@pytest.mark.slow
def test_sweep_is_stored_with_measures_per_lambda_and_group(swept: tuple[Path, Swept]) -> None:
    home, found = swept
    assert (found.run.kind, found.run.status, found.run.model) == ("steer", "done", "Tiny")
    controls = {(p["control"], p["lambda"]) for p in found.result["points"]}
    expected = ("none", "negated", "random_1", "random_2", "shuffled")
    assert controls == {(c, s) for c in expected for s in (0.0, 1.0)}
    assert found.result["verdict"] == "undecided"
    assert "too_few_controls" in found.result["flags"]
    tasks = [p["tasks"][0] for p in found.result["points"] if "tasks" in p]
    assert [(task["task"], task["status"], task["n"]) for task in tasks] == [
        ("arithmetic", "done", 40)
    ] * 2
    folder = runs.folder_of(home, found.run.run_id)
    stored = json.loads((folder / runs.MEASURES).read_text())
    assert {"none/lambda=1", "shuffled/lambda=0"} <= {m.get("group", "") for m in stored}
    page = (folder / "sweep.html").read_text()
    assert page.count("<svg") == 3  # indices, AQI and published sweeps


@pytest.mark.slow
def test_sweep_that_is_done_is_shown_and_a_wider_one_takes_only_what_is_new(
    swept: tuple[Path, Swept],
) -> None:
    home, found = swept
    options = {**SMALL, "tasks": "aqi,arithmetic", "limit": 40, "layers": "2,3"}
    again = steer("Tiny", "0,1", home=home, **options)
    assert (again.run.run_id, again.result) == (found.run.run_id, found.result)
    cached = {path.name for path in (home / "steering" / "activations").iterdir()}
    wider = steer("Tiny", "0,0.5,1", home=home, **{**options, "tasks": "aqi"})
    new = {path.name for path in (home / "steering" / "activations").iterdir()} - cached
    assert len(new) == 3  # the vector, its opposite and the first random direction at 0.5
    # Each text once more through the four layers, and three times through the last two.
    assert [one["layer_forwards"] for one in wider.run.engine_stats["passes"]] == [4 + 3 * 2]


@pytest.mark.slow
def test_any_task_runs_under_steering_and_is_marked(swept: tuple[Path, Swept]) -> None:
    home, _ = swept
    steered = next(
        run
        for run in runs.read_all(home)
        if run.task == "arithmetic" and run.engine_settings.get("steer_lambda") == 1.0
    )
    assert "steered" in steered.flags
    plain = evaluate("Tiny/base", "arithmetic", home=home, limit=40, offline_sample=True)
    assert plain[0].run_id != steered.run_id
    assert "steered" not in plain[0].flags
