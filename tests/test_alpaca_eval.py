"""Win rates and length control against what AlpacaEval published."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from harness.alpaca_eval import (
    DATASET,
    JUDGE,
    Weights,
    aligned,
    estimated_difficulties,
    is_switched,
    length_controlled,
    published_weights,
    refit,
    unswitched,
    weighted_preference,
    win_rates,
)
from harness.errors import DataError
from harness.logistic import fit, probability
from harness.rows import read_rows
from harness.scorers.judged import NOT_ASKED, RANKING, WEIGHTED, WEIGHTED_DISCRETE
from harness.types import Completion, Message, Sample

SWITCHED, STRAIGHT = "What is a tide?", "Hello"


def compared(instruction: str, target: str = "theirs") -> Sample:
    turns = (Message(role="user", content=instruction),)
    return Sample(id="x", input=turns, target=target)


def reply(*logprobs: float, text: str = "") -> Completion:
    return Completion(
        request_id="x",
        text=text,
        finish_reason="stop" if text else "scored",
        prompt_tokens=5,
        choice_logprobs=logprobs,
    )


def test_worked_example_of_the_weighted_judge() -> None:
    raw = weighted_preference({"m": -0.2, "M": -1.8})
    assert raw == pytest.approx(1.1679816148660755, abs=1e-15)
    assert unswitched(raw, SWITCHED) == pytest.approx(1.8320183851339245, abs=1e-15)
    assert unswitched(raw, STRAIGHT) == raw


def test_order_is_the_draw_of_annotator_seed_0() -> None:
    for text in (SWITCHED, STRAIGHT, "", "ä\n"):
        draw = random.Random("is_switched_outputs" + text + "0").choices([False, True], k=1)[0]
        assert is_switched(text) is draw


def test_answers_are_shown_in_the_drawn_order() -> None:
    assert WEIGHTED.shown(compared(STRAIGHT), "ours") == {
        "instruction": STRAIGHT,
        "output_1": "theirs",
        "output_2": "ours",
    }
    assert WEIGHTED.shown(compared(SWITCHED), "ours") == {
        "instruction": SWITCHED,
        "output_1": "ours",
        "output_2": "theirs",
    }


def test_a_judge_who_prefers_the_first_shown_prefers_another_model_when_switched() -> None:
    first = reply(-0.2, -1.8)
    assert WEIGHTED(compared(STRAIGHT), first).value == pytest.approx(0.1679816148660755)
    assert WEIGHTED(compared(SWITCHED), first).value == pytest.approx(0.8320183851339245)
    assert WEIGHTED_DISCRETE(compared(SWITCHED), first).value == 1.0
    assert WEIGHTED_DISCRETE(compared(STRAIGHT), first).value == 0.0


def test_equal_answers_are_a_draw_that_nobody_is_asked_about() -> None:
    assert WEIGHTED.shown(compared(STRAIGHT), "theirs") is None
    for grader in (WEIGHTED, WEIGHTED_DISCRETE, RANKING):
        score = grader(compared(SWITCHED), NOT_ASKED)
        assert (score.value, score.answer) == (0.5, "1.5")


def test_a_judge_about_to_say_something_else_gives_no_preference() -> None:
    score = WEIGHTED(compared(STRAIGHT), reply(-9.0, -10.0))
    assert math.isnan(score.value)
    assert score.answer is None


def test_missing_and_zero_preferences() -> None:
    rates = win_rates({"preference": p} for p in (1, 2, None, math.nan, 0))
    assert (rates.n_total, rates.n_wins, rates.n_wins_base, rates.n_draws) == (3, 1, 1, 1)
    assert rates.win_rate == 50
    with pytest.raises(DataError, match="none of the 1 annotations"):
        win_rates([{"preference": None}])


def test_length_control_undoes_what_only_length_explains() -> None:
    """Answers of one quality to a judge who likes length: the longer model wins on paper only."""
    generator = random.Random(5)
    lengths = [(1000, 1000 + generator.randrange(-300, 900)) for _ in range(2000)]
    difficulty = [generator.gauss(0, 1) for _ in lengths]
    mean = sum(b - a for a, b in lengths) / len(lengths)
    spread = math.sqrt(sum((b - a - mean) ** 2 for a, b in lengths) / (len(lengths) - 1))
    wins = [
        float(generator.random() < probability(2 * math.tanh((b - a) / spread) + 0.5 * d))
        for (a, b), d in zip(lengths, difficulty, strict=True)
    ]
    assert sum(wins) / len(wins) > 0.6
    found = refit(wins, lengths, difficulty)
    assert found is not None
    weights, controlled = found
    assert abs(controlled.value - 50) < 3 * controlled.stderr < 10
    assert weights.length == pytest.approx(-2, abs=0.3)
    assert weights.difficulty == pytest.approx(0.5, abs=0.2)


def test_a_model_that_loses_everything_has_no_fit() -> None:
    assert refit([0.0] * 60, [(10, 10 + i) for i in range(60)], None) is None
    assert refit([0.5] * 60, [(10, 10)] * 60, None) is not None


def test_terms_that_say_the_same_have_no_fit() -> None:
    assert fit([[1.0, 2.0]] * 4, [0.0, 1.0, 1.0, 0.0]) is None


def test_difficulty_follows_the_instruction_unless_the_row_is_asked_for() -> None:
    known = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert aligned(["c", "a"], known) == [3.0, 1.0]
    assert aligned(["c", "a"], known, compat_row_index=True) == [1.0, 2.0]
    with pytest.raises(DataError, match="`d` has no difficulty"):
        aligned(["d"], known)


def test_a_model_against_itself_wins_half() -> None:
    weights = Weights(length=-1.0, difficulty=0.0, ability=0.0)
    assert length_controlled(weights, [1.0, -1.0]).value == 50


def annotations(data_root: Path) -> dict[str, list[dict[str, Any]]]:
    folder = data_root / DATASET / "annotations" / JUDGE
    return {path.stem: read_rows(path) for path in sorted(folder.glob("*.parquet"))}


def leaderboard(data_root: Path) -> dict[str, dict[str, str]]:
    path = data_root / DATASET / "leaderboards" / f"{JUDGE}_leaderboard.csv"
    with path.open(encoding="utf-8") as file:
        return {row[""]: row for row in csv.DictReader(file)}


@pytest.mark.data
def test_win_rates_equal_the_published_leaderboard(data_root: Path) -> None:
    published, checked = leaderboard(data_root), 0
    for model, rows in annotations(data_root).items():
        if model not in published:
            continue
        rates, row = win_rates(rows), published[model]
        for name in ("win_rate", "standard_error", "discrete_win_rate"):
            assert getattr(rates, name) == pytest.approx(float(row[name]), abs=1e-9), (model, name)
        for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
            assert getattr(rates, name) == int(row[name]), (model, name)
        checked += 1
    assert checked == 13


@pytest.mark.data
def test_parser_and_order_give_every_published_preference(data_root: Path) -> None:
    checked = 0
    for rows in annotations(data_root).values():
        for row in rows:
            raw = json.loads(row["raw_completion"] or "null")
            if not isinstance(raw, dict) or not raw.get("logprobs"):
                continue
            top = raw["logprobs"]["content"][0]["top_logprobs"]
            preference = weighted_preference({one["token"]: one["logprob"] for one in top})
            found = unswitched(preference, row["instruction"])
            assert found == pytest.approx(row["preference"], abs=1e-9)
            checked += 1
    assert checked == 8_020


@pytest.mark.data
def test_published_weights_predict_the_published_length_controlled_rates(data_root: Path) -> None:
    """Up to the error of the difficulties, which were estimated to about .01."""
    known = estimated_difficulties(data_root)
    assert known is not None
    published = leaderboard(data_root)
    off = sorted(
        abs(length_controlled(weights, list(known.values())).value - float(row))
        for model, weights in published_weights(data_root).items()
        if (row := published.get(model, {}).get("length_controlled_winrate"))
    )
    assert len(off) == 199
    assert off[99] < 0.003
    assert sum(value < 0.05 for value in off) == 197
    assert off[-1] < 0.2


@pytest.mark.data
def test_row_index_comes_nearer_to_what_was_published_for_shortened_files(data_root: Path) -> None:
    known = estimated_difficulties(data_root)
    assert known is not None
    asked = [row["instruction"] for row in annotations(data_root)["text_davinci_001"]]
    weights = published_weights(data_root)["text_davinci_001"]
    by_row = length_controlled(weights, aligned(asked, known, compat_row_index=True))
    by_instruction = length_controlled(weights, aligned(asked, known))
    assert by_row.value == pytest.approx(9.025729, abs=0.01)
    assert by_instruction.value == pytest.approx(9.008617, abs=0.01)
