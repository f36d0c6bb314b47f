"""The generated word problems, and that no test question is ever trained on."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness import datasets, registry
from harness.types import Completion, Dataset
from tasks import arithmetic
from tasks.arithmetic_problems import (
    Row,
    held_out_problems,
    is_held_out,
    preferences,
    problems,
)

REPOSITORY = Path(__file__).resolve().parent.parent
TASK = registry.task("arithmetic")


@pytest.fixture(scope="module")
def make_tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_tiny", REPOSITORY / "scripts" / "make_tiny.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_tiny"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_problems_are_the_same_for_the_same_seed_only() -> None:
    assert problems(3, 50) == problems(3, 50)
    assert problems(3, 50) == problems(3, 80)[:50]
    assert problems(3, 50) != problems(4, 50)


def test_problems_are_distinct() -> None:
    assert len({row["question"] for row in problems(5, 5000)}) == 5000


def test_problems_of_the_two_sides_never_meet() -> None:
    assert not any(is_held_out(row["question"]) for row in problems(1, 2000))
    assert all(is_held_out(row["question"]) for row in held_out_problems(1, 500))


def test_every_calculation_is_right_and_the_last_one_is_the_answer() -> None:
    for row in (*problems(11, 1000), *held_out_problems(11, 300)):
        check_calculations(row)


def check_calculations(row: Row) -> None:
    notes = re.findall(r"(\d+)([-+*])(\d+)=<<(\d+[-+*]\d+)=(\d+)>>(\d+)", row["answer"])
    assert notes
    results = []
    for left, sign, right, inside, result, shown in notes:
        assert inside == f"{left}{sign}{right}"
        a, b = int(left), int(right)
        assert int(result) == int(shown) == {"+": a + b, "-": a - b, "*": a * b}[sign]
        results.append(result)
    assert row["answer"].endswith(f"\n#### {results[-1]}")
    assert all(0 < int(result) < 100 for result in results)


def test_every_number_of_a_first_step_stands_in_the_question() -> None:
    for row in problems(12, 300):
        first = row["answer"].split("<<")[1].split("=")[0]
        assert set(re.findall(r"\d+", first)) <= set(re.findall(r"\d+", row["question"]))


def test_the_shipped_items_are_what_the_generator_makes() -> None:
    shipped = datasets.load(TASK.dataset, TASK.columns).rows
    assert shipped == held_out_problems(arithmetic.TEST_SEED, arithmetic.TEST_ITEMS)
    assert len({row["question"] for row in shipped}) == 500
    assert TASK.fewshot is not None
    pool = datasets.load(TASK.fewshot.dataset, TASK.columns).rows
    assert pool == problems(arithmetic.TRAIN_SEED, arithmetic.TRAIN_ITEMS)


def test_shipped_preferences_are_training_problems_with_a_wrong_answer_that_reads_alike() -> None:
    source = Dataset(path="tunebench:arithmetic_preferences.jsonl", split="train")
    shipped = datasets.load(source, ("question", "answer", "wrong")).rows
    assert shipped == preferences(arithmetic.TRAIN_SEED, arithmetic.TRAIN_ITEMS)
    for row in shipped:
        assert re.sub(r"\d+", "0", row["wrong"]) == re.sub(r"\d+", "0", row["answer"])
        right, wrong = (int(row[name].rpartition("#### ")[2]) for name in ("answer", "wrong"))
        assert right != wrong > 0
        assert f"={wrong}>>{wrong} " in row["wrong"]


def test_training_text_holds_no_test_question(make_tiny: ModuleType) -> None:
    stream = make_tiny.documents(make_tiny.SEED, chats=0.2)
    text = "".join(piece for document in itertools.islice(stream, 5000) for piece, _ in document)
    trained = problems(1000 * make_tiny.SEED, 100)
    assert all(row["question"] in text for row in trained)
    items = datasets.load(TASK.dataset, TASK.columns).rows
    assert not any(row["question"] in text for row in items)


def test_the_target_scores_one_and_another_number_zero() -> None:
    row = {"question": "Mia has 2 cups …", "answer": "Mia has 2+3=<<2+3=5>>5 cups.\n#### 5"}
    sample = TASK.to_sample(row, 4)
    assert sample.id == "arithmetic-4"
    assert sample.input == "Question: Mia has 2 cups …\nAnswer:"
    for scorer in TASK.scorers:
        for number, value in (("5", 1.0), ("6", 0.0)):
            text = f" Mia has {number} cups.\n#### {number}"
            completion = Completion(
                request_id=sample.id, text=text, finish_reason="stop", prompt_tokens=9
            )
            assert scorer(sample, completion).value == value
