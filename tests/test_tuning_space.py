"""What a search may vary: refused before anything starts, or turned into values of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import recipes, registry
from harness.errors import BenchError, UsageError
from harness.evaluate import Options as Evaluation
from harness.search import Search
from harness.session import Silent
from harness.tuning import space
from harness.tuning.drafting import drafted
from harness.tuning.held_out import held_out
from harness.tuning.patience import Progress
from harness.tuning.places import Place, places
from harness.tuning.plan import Options
from harness.tuning.space import Dimension, dimensions
from harness.types import JSON

SHAPE = recipes.shape_of(registry.trainer("sft"))


def searched(**fields: JSON) -> list[Dimension]:
    named = {path.replace("__", "."): given for path, given in fields.items()}
    return dimensions(Search.model_validate({"space": named}), [SHAPE], "r.yaml")


def test_a_range_is_as_whole_as_its_field() -> None:
    found = searched(
        optimizer__learning_rate={"low": 1, "high": 2, "log": True},
        max_steps={"low": 5, "high": 20, "step": 6},
        params__reduction={"choices": ["token_global", "sequence"]},
        lora__rank={"low": 4, "high": 16},
    )
    assert found == [
        Dimension(path="optimizer.learning_rate", kind="float", low=1, high=2, log=True),
        Dimension(path="max_steps", kind="int", low=5, high=17, step=6),
        Dimension(path="params.reduction", kind="choice", choices=("token_global", "sequence")),
        Dimension(path="lora.rank", kind="int", low=4, high=16),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "is empty"),
        ({"seed": {"low": 3, "high": 3}}, "goes from 3 to 3, which leaves nothing to try"),
        ({"seed": {"low": 3, "high": 2}}, "goes from 3 to 2"),
        ({"seed": {"choices": []}}, r"has 0 value\(s\)"),
        ({"seed": {"choices": [1]}}, r"has 1 value\(s\)"),
        ({"seed": {"choices": [1, 1]}}, r"has 1 value\(s\)"),
        ({"seed": {"choices": [1, 2, 1]}}, "has a value twice"),
        ({"seed": {"low": 0.5, "high": 2}}, "is a whole number"),
        ({"seed": {"low": 1, "high": 4, "step": 9}}, "has the step 9, and only 3"),
        ({"optimizer.eps": {"low": 0, "high": 1, "log": True}}, "`log: true` and begins at 0"),
        (
            {"optimizer.eps": {"low": 1, "high": 2, "log": True, "step": 0.5}},
            "both `log` and `step`",
        ),
        ({"optimizer.lr": {"low": 1, "high": 2}}, "unknown field `optimizer.lr`"),
        ({"learning_rate": {"low": 1, "high": 2}}, "unknown field `learning_rate`"),
        ({"params.kl_weight": {"low": 0.1, "high": 1}}, "unknown field `params.kl_weight`"),
    ],
)
def test_a_space_without_size_or_of_unknown_fields_is_refused(given: JSON, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dimensions(Search.model_validate({"space": given}), [SHAPE], "r.yaml")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("learning_rate", "it belongs at `optimizer.learning_rate`"),
        ("optimizer.weight_decy", "did you mean `weight_decay`?"),
        ("global_batchsize", "did you mean `global_batch_size`?"),
    ],
)
def test_the_nearest_field_is_named(path: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        dimensions(Search.model_validate({"space": {path: {"low": 1, "high": 2}}}), [SHAPE], "r")
    assert raised.value.hint == hint


def test_numbers_that_yaml_takes_for_texts_are_numbers() -> None:
    (rate,) = searched(optimizer__learning_rate={"choices": ["1e-05", 0.1]})
    assert rate.choices == (1e-05, 0.1)


def test_choices_of_any_kind_come_back_as_they_were() -> None:
    lists = Dimension(path="lora.targets", kind="choice", choices=(["q_proj"], ["all-linear"]))
    assert lists.marks == ('["q_proj"]', '["all-linear"]')
    assert [lists.value(mark) for mark in lists.marks] == [["q_proj"], ["all-linear"]]
    mixed = Dimension(path="x", kind="choice", choices=(1, True, None))
    assert [mixed.value(mark) for mark in mixed.marks] == [1, True, None]


def test_a_point_is_what_set_takes() -> None:
    point = {"optimizer.learning_rate": 1e-05, "lora.targets": ["a", "b"], "epochs": None}
    assert space.settings(point) == {
        "optimizer.learning_rate": "1.0e-05",
        "lora.targets": "[a, b]",
        "epochs": "null",
    }


def test_corners_are_all_combinations_of_ends_or_a_drawn_part() -> None:
    two = searched(seed={"low": 1, "high": 9}, max_steps={"choices": [5, 6, 7]})
    assert [(one["seed"], one["max_steps"]) for one in space.corners(two, 0)] == [
        *((1, 5), (1, 6), (1, 7), (9, 5), (9, 6), (9, 7))
    ]
    wide = searched(
        **{f"{name}__x": {"low": 1, "high": 2} for name in ()},
        seed={"choices": list(range(200))},
    )
    assert len(list(space.corners(wide, 0))) == space.MOST_CORNERS
    assert list(space.corners(wide, 0)) == list(space.corners(wide, 0))


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(space: JSON, recipe: JSON | None = None, **search: Any) -> str:
        values = {"extends": "tiny_sft", "search": {"space": space, **search}, **(recipe or {})}
        path = tmp_path / "mine.yaml"
        path.write_text(json.dumps(values))
        return str(path)

    return write


LR = {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}


def refused(path: str, home: Path, **options: Any) -> BenchError:
    evaluation = Evaluation(engine="mock", home=home)
    with (
        pytest.raises(BenchError) as raised,
        drafted(path, Options(evaluation=evaluation, **options), Silent()),
    ):
        pass
    assert not list((home / "runs").glob("[!.]*")), "nothing was begun"
    return raised.value


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        ({"micro_batch_size": {"choices": [8, 16]}}, {}, "changes no gradient"),
        ({"report_to": {"choices": [[], ["wandb"]]}}, {}, "says how a training is run"),
        (
            {"optimizer.min_lr_ratio": {"low": 0.0, "high": 0.5}},
            {"optimizer": {"schedule": "constant"}},
            "the schedule is constant",
        ),
        ({"max_length": {"low": 200, "high": 300}}, {}, "the longest example has"),
        ({"epochs": {"low": 10, "high": 20}}, {"max_steps": 3}, "`max_steps` ends every training"),
    ],
)
def test_what_the_trainer_would_not_use_is_refused(
    recipe: Any, tmp_path: Path, space: JSON, changes: JSON, message: str
) -> None:
    error = refused(recipe({**LR, **space}, changes), tmp_path / "home")
    assert message in error.message
    assert next(iter(space)) in error.message


def test_a_field_that_counts_in_some_trials_is_no_error(recipe: Any, tmp_path: Path) -> None:
    space = {
        "optimizer.min_lr_ratio": {"low": 0.0, "high": 0.5},
        "optimizer.schedule": {"choices": ["constant", "cosine"]},
    }
    evaluation = Evaluation(engine="mock", home=tmp_path)
    with drafted(recipe(space), Options(evaluation=evaluation), Silent()) as draft:
        assert [one.path for one in draft.plan.space] == list(space)


@pytest.mark.parametrize(
    ("search", "options", "message"),
    [
        ({"objective": "gsm8k"}, {}, "is no task of the recipe"),
        ({"objective": "los"}, {}, "is no task of the recipe"),
        ({"min_resource": 9}, {}, "would never end a trial: it first looks after 9"),
        ({"pruner": "hyperband", "evaluations": 1}, {}, "would never end a trial"),
        ({"patience": 9}, {}, "would never end a trial of 9"),
        ({"min_delta": 0.1}, {}, "has no meaning without `patience`"),
        ({"trials": 0}, {}, "`search.trials: 0` is below 1"),
        ({}, {"trials": 0}, "`--trials: 0` is below 1"),
        ({}, {"workers": 0}, "`--workers: 0` is below 1"),
        ({"reduction_factor": 1}, {}, "keeps every trial"),
        ({"sampler": "tpee"}, {}, "`sampler` in `search` of .* is 'tpee'"),
        ({}, {"study": "a/b"}, "cannot be the name of a study"),
        ({}, {"register": "Tiny"}, "is in the model registry already"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_begins(
    recipe: Any, tmp_path: Path, search: JSON, options: JSON, message: str
) -> None:
    import re

    error = refused(recipe(LR, **search), tmp_path / "home", **options)
    assert re.search(message, error.message), error.message


def test_a_corner_that_is_no_recipe_is_named(recipe: Any, tmp_path: Path) -> None:
    error = refused(recipe({"global_batch_size": {"choices": [32, 48]}}), tmp_path / "home")
    assert error.message.startswith("the search reaches `global_batch_size=48`, and there: ")


def test_a_recipe_without_a_search_is_refused(tmp_path: Path) -> None:
    error = refused("tiny_sft", tmp_path / "home")
    assert "has no `search`" in error.message


def test_a_disk_without_room_is_refused(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 9e6})())
    # The best one's 3.5 MB, and twice that for each of two workers.
    error = refused(recipe(LR), tmp_path / "home", workers=2)
    assert "the checkpoints need about 0.0 GB" in error.message


def test_a_searched_field_need_not_be_in_the_recipe_itself(tmp_path: Path) -> None:
    values = recipes.written("tiny_sft", {})[1]
    del values["optimizer"]
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({**values, "search": {"space": LR}}))
    evaluation = Evaluation(engine="mock", home=tmp_path)
    with drafted(str(path), Options(evaluation=evaluation), Silent()) as draft:
        assert draft.asked.shape.optimizer.learning_rate == 1e-4


def test_prompts_are_either_learnt_or_held_out() -> None:
    examples = [{"prompt": f"p{i % 40}", "completion": str(i)} for i in range(100)]
    learnt, kept = held_out(examples, 0.2)
    assert len(learnt) + len(kept) == 100
    assert 20 <= len(kept) <= 22
    assert {one["prompt"] for one in learnt}.isdisjoint(one["prompt"] for one in kept)
    _, same = held_out(examples[::-1], 20)
    assert {one["prompt"] for one in same} == {one["prompt"] for one in kept}


@pytest.mark.parametrize(("wanted", "left"), [(5000, 0), (0.0, 100)])
def test_something_is_learnt_and_something_held_out(wanted: float, left: int) -> None:
    examples = [{"prompt": f"p{i}", "completion": str(i)} for i in range(100)]
    with pytest.raises(UsageError, match=f"leaves {left} to learn"):
        held_out(examples, wanted)


def added(progress: Progress, *values: float) -> list[tuple[bool, bool]]:
    """Of each value: whether it is the best, and whether that is enough."""
    return [(progress.add(step, value), progress.enough) for step, value in enumerate(values, 1)]


def test_patience_counts_evaluations_without_a_real_improvement() -> None:
    progress = Progress(lower_is_better=True, patience=2, min_delta=0.1)
    told = added(progress, 1.0, 0.95, 0.8, 0.75, 0.85)
    assert told == [
        (True, False),
        (True, False),  # better, by too little to count
        (True, False),
        (True, False),
        (False, True),
    ]
    assert (progress.best, progress.best_step, progress.last_step) == (0.75, 4, 5)


def test_a_score_is_better_when_it_is_higher_and_nan_never_is() -> None:
    progress = Progress(lower_is_better=False, patience=2)
    nan = float("nan")
    assert added(progress, nan, 0.2, 0.3, nan, 0.3) == [
        *((False, False), (True, False), (True, False), (False, False), (False, True))
    ]
    assert (progress.best, progress.best_step) == (0.3, 3)


def test_two_devices_are_used_where_there_are_enough() -> None:
    here = Place()
    assert places(1, []) == [here]
    assert places(1, ["0"]) == [here]
    assert places(1, ["3", "5"]) == [Place(train="3", evaluate="5")]
    assert places(2, list("0123")) == [
        Place(train="0", evaluate="1"),
        Place(train="2", evaluate="3"),
    ]
    assert places(2, list("012")) == [
        Place(train="0", evaluate="0"),
        Place(train="1", evaluate="1"),
    ]
    assert places(3, list("01")) == [here] * 3
    assert places(1, list("01"), processes=2) == [here]
    assert Place(train="0", evaluate="1").beside
    assert not here.beside
    assert Place(train="3", evaluate="5").variables("5") == {"CUDA_VISIBLE_DEVICES": "5"}
