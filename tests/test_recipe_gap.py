from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from harness import recipes
from harness.cli.app import app
from harness.recipe_gap import Gap, gaps, in_words


def found(changes: dict[str, str]) -> list[Gap]:
    return gaps(recipes.read("tiny_sft", {}), recipes.read("tiny_sft", changes))


def test_equal_recipes_have_no_gap() -> None:
    assert found({}) == []


def test_numbers_have_a_ratio_and_words_have_none() -> None:
    changed = {"optimizer.learning_rate": "0.0005", "precision": "bf16", "seed": "7"}
    assert found(changed) == [
        Gap(setting="precision", a="fp32", b="bf16", ratio=None),
        Gap(setting="seed", a=42, b=7, ratio=None),
        Gap(setting="optimizer.learning_rate", a=0.001, b=0.0005, ratio=0.5),
    ]


def test_a_section_that_one_recipe_lacks_is_shown_by_its_parts() -> None:
    settings = {gap.setting: (gap.a, gap.b) for gap in found({"lora.rank": "8"})}
    assert settings["lora.rank"] == (None, 8)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(78.0, "78× higher"), (0.025, "40× lower"), (None, ""), (1.5, "1.5× higher")],
)
def test_a_gap_is_told_in_words(ratio: float | None, words: str) -> None:
    assert in_words(ratio) == words


def test_the_command_shows_the_gap_to_the_published_recipe() -> None:
    done = CliRunner().invoke(app, ["compare-recipes", "pku_sft_lora", "tulu3_sft_8b", "--json"])
    assert done.exit_code == 0
    ratios = {one["setting"]: one["ratio"] for one in json.loads(done.stdout)}
    assert ratios["optimizer.learning_rate"] == pytest.approx(1 / 40)
    assert (ratios["epochs"], ratios["global_batch_size"]) == (2.0, 4.0)
