"""From the datasets of a recipe to examples: columns, templates, mixtures, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import overlap, recipes, registry, training_data
from harness.errors import DataError, UsageError
from harness.training_data import TrainingData
from harness.types import JSON

ROWS = [{"q": f"What is {n} + 1?", "a": str(n + 1), "good": n % 2 == 0} for n in range(10)]


def resolved(folder: Path, rows: list[JSON], data: JSON, **recipe: Any) -> TrainingData:
    return training_data.resolve(asked(folder, rows, data, **recipe))


def asked(folder: Path, rows: list[JSON], data: JSON, **recipe: Any) -> recipes.Asked:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines)
    source = {"path": str(folder / "rows.jsonl"), **data.pop("source", {})}
    values = {
        "method": "sft",
        "model": "Tiny/base",
        "optimizer": {"learning_rate": 1e-3},
        "data": {"sources": [source], **data},
        **recipe,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return recipes.read(str(folder / "recipe.yaml"), {})


def test_a_template_of_text_stands_around_prompt_and_completion(tmp_path: Path) -> None:
    own = {"prompt": "Q: {prompt}\nA:", "completion": " {completion}"}
    data = {"columns": {"prompt": "q", "completion": "a"}, "template": own}
    found = resolved(tmp_path, ROWS[:2], data)
    assert [one.given for one in found.examples] == [
        {"prompt": "Q: What is 0 + 1?\nA:", "completion": " 1"},
        {"prompt": "Q: What is 1 + 1?\nA:", "completion": " 2"},
    ]


def test_chat_makes_messages_with_the_system_text_first(tmp_path: Path) -> None:
    data = {"columns": {"prompt": "q", "completion": "a"}, "system": "Be brief."}
    found = resolved(tmp_path, ROWS[:1], data)
    assert found.examples[0].given == {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is 0 + 1?"},
        ],
        "completion": "1",
    }


def test_a_conversation_is_learnt_from_the_first_turn_of_the_assistant_on(tmp_path: Path) -> None:
    turns = [
        {"role": role, "content": text}
        for role, text in [("user", "Hi"), ("assistant", "Ho"), ("user", "?"), ("assistant", "!")]
    ]
    found = resolved(tmp_path, [{"messages": turns}], {})
    assert found.examples[0].given == {"prompt": turns[:1], "completion": turns[1:]}


def test_a_missing_column_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        resolved(tmp_path, ROWS, {"columns": {"prompt": "question", "completion": "a"}})
    assert error.value.message == "there is no column `question`"
    assert error.value.hint == "the columns are: q, a, good"


def test_an_empty_completion_is_an_error_with_its_place_or_is_dropped(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"q": "Why?", "a": "  "}]
    data = {"columns": {"prompt": "q", "completion": "a"}}
    with pytest.raises(DataError, match=r"the completion in row 3 of .* is empty"):
        resolved(tmp_path, rows, dict(data))
    found = resolved(tmp_path, rows, {**data, "empty": "drop"})
    assert (len(found.examples), found.drawn[0].empty, found.drawn[0].taken) == (2, 1, 2)


@pytest.mark.parametrize(("take", "n"), [(0.3, 3), (4, 4), (1.0, 10)])
def test_a_share_or_a_number_of_rows_is_drawn_the_same_each_time(
    tmp_path: Path, take: float, n: int
) -> None:
    data = {"columns": {"prompt": "q", "completion": "a"}}
    drawn = [resolved(tmp_path, ROWS, {**data, "source": {"take": take}}) for _ in range(2)]
    assert len(drawn[0].examples) == n
    assert drawn[0] == drawn[1]


def test_rows_can_be_chosen_by_a_value(tmp_path: Path) -> None:
    data = {"columns": {"prompt": "q", "completion": "a"}, "source": {"where": {"good": True}}}
    assert len(resolved(tmp_path, ROWS, data).examples) == 5


def test_more_rows_than_there_are_cannot_be_taken(tmp_path: Path) -> None:
    data = {"columns": {"prompt": "q", "completion": "a"}, "source": {"take": 11}}
    with pytest.raises(DataError, match="it has 10 rows"):
        resolved(tmp_path, ROWS, data)


def test_a_template_without_its_place_for_the_prompt_is_refused(tmp_path: Path) -> None:
    data = {"columns": {"prompt": "q", "completion": "a"}, "template": {"prompt": "Q:"}}
    with pytest.raises(UsageError, match=r"needs `\{prompt\}` once"):
        resolved(tmp_path, ROWS, data)


def test_questions_of_a_task_are_found_whole_and_by_thirteen_words() -> None:
    task = registry.task("arithmetic")
    samples = [json.loads(line)["question"] for line in _arithmetic()]
    long = next(text for text in samples if len(text.split()) > 15)
    words = long.split()
    part = "Well: " + " ".join(words[:14]).upper() + " and so on"
    found = overlap.overlaps([task], [(samples[3], ""), ("nothing", "here"), (part, "")])
    kinds = {one.sample_id: (one.kind, one.example) for one in found}
    assert kinds["arithmetic-3"] == ("exact", 0)
    assert kinds[f"arithmetic-{samples.index(long)}"] == ("ngram", 2)


def test_the_training_questions_of_arithmetic_are_none_of_its_test() -> None:
    data = training_data.resolve(recipes.read("tiny_sft", {}))
    texts = [(one.question, one.answers) for one in data.examples]
    assert overlap.overlaps([registry.task("arithmetic")], texts) == []


def _arithmetic() -> list[str]:
    path = Path(__file__).resolve().parent.parent / "tasks" / "samples" / "arithmetic.jsonl"
    return path.read_text(encoding="utf-8").splitlines()


def test_a_task_that_asks_otherwise_than_the_training_is_noticed() -> None:
    task = registry.task("arithmetic")
    same = recipes.read("tiny_sft", {})
    other = recipes.read("tiny_sft", {"data.template": "alpaca"})
    chat = recipes.read("tiny_sft", {"data.template": "chat"})
    assert training_data.template_mismatch(same, task, None) == ""
    assert "prompts begin with" in training_data.template_mismatch(other, task, None)
    assert "chat template" in training_data.template_mismatch(chat, task, None)


def test_shuffled_answers_are_all_there_and_none_is_its_own(tmp_path: Path) -> None:
    data = {"columns": {"prompt": "q", "completion": "a"}, "template": "question_only"}
    kept = [one.given for one in resolved(tmp_path, ROWS, dict(data)).examples]
    mixed = resolved(tmp_path, ROWS, {**data, "shuffle_answers": True}).examples
    assert [one.given["prompt"] for one in mixed] == [one["prompt"] for one in kept]
    answers = [one.given["completion"] for one in mixed]
    assert sorted(answers) == sorted(one["completion"] for one in kept)
    assert not any(new == old["completion"] for new, old in zip(answers, kept, strict=True))


def test_answers_can_only_be_shuffled_where_each_prompt_has_one(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b"}] * 2
    with pytest.raises(UsageError, match="`dpo` learns from preferences"):
        resolved(tmp_path, rows, {"shuffle_answers": True}, method="dpo")
