"""A pair that is trained here, by its recipes, and steered on prompts that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import store
from harness.steering.experiment import Swept, steer
from harness.train import train_recipe
from harness.training_plan import Options

PROMPTS, LAMBDAS = "tunebench:safety.jsonl", "0,0.1,0.2,0.3"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Swept]:
    home = tmp_path_factory.mktemp("pair")
    for recipe, model, name in (
        ("tiny_safety_sft", "Tiny/base", "Sft"),
        ("tiny_safety_dpo", "Sft", "Dpo"),
    ):
        asked = Options(settings={"model": model}, register=name, home=home)
        assert train_recipe(recipe, asked).status == "done"
    options: dict[str, Any] = {"prompts": f"{PROMPTS}:test", "texts": f"{PROMPTS}:vector"}
    return home, steer("Sft,Dpo", LAMBDAS, home=home, **options)


@pytest.mark.long
def test_preference_for_refusing_what_is_harmful_parts_safe_from_unsafe_along_its_vector(
    swept: tuple[Path, Swept],
) -> None:
    _, found = swept
    result = found.result
    assert (result["verdict"], result["decision"]) == ("rises", "expand")
    assert result["trend_p"] <= 0.01
    assert result["difference"]["ci_low"] > 0


@pytest.mark.long
def test_random_directions_and_shuffled_labels_stay_far_below_that_trend(
    swept: tuple[Path, Swept],
) -> None:
    _, found = swept
    controls = found.result["controls"]
    # One of the 19 stands out among the other 18 at its level of .01, by a fifth of what the vector
    # does. Nineteen such looks find one by chance in 17 sweeps of 100, two in 2.
    assert controls["random"]["n"] == 19
    assert controls["random"]["significant"] <= 1
    assert (controls["shuffled"]["n"], controls["shuffled"]["significant"]) == (199, 0)
    assert controls["random"]["largest"] < found.result["difference"]["value"] / 4


@pytest.mark.long
def test_history_holds_the_curve_and_what_was_decided(swept: tuple[Path, Swept]) -> None:
    home, _ = swept
    _, curve = store.query(
        home,
        "SELECT value FROM sweeps WHERE metric = 'separation' AND control = 'none'"
        " AND prompts = '' ORDER BY steer_lambda",
    )
    values = [value for (value,) in curve]
    assert values == sorted(values)
    assert len(values) == 4
    _, whole = store.query(
        home,
        "SELECT metric, value FROM measures WHERE group_name = '' AND metric IN"
        " ('antitone', 'monotone', 'rises') ORDER BY metric",
    )
    assert whole == [("antitone", 0.0), ("monotone", 1.0), ("rises", 1.0)]
