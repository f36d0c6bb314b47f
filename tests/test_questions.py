from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness import registry
from harness.datasets import DatasetNotFoundError
from harness.errors import DataError, UsageError
from harness.questions import Questions, questions
from harness.types import Request


def offline(name: str, **options: object) -> Questions:
    return questions(registry.task(name), offline=True, **options)  # type: ignore[arg-type]


def own_mmlu(path: Path, *subjects: str) -> Path:
    """A data root whose MMLU has one question for each of `subjects`, and five to show for each."""
    row = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}
    folder = path / "cais" / "mmlu" / "all"
    folder.mkdir(parents=True)
    asked = [{**row, "subject": subject} for subject in subjects]
    shown = [{**row, "subject": subject} for subject in sorted(set(subjects)) for _ in range(5)]
    for split, rows in (("test", asked), ("dev", shown)):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_offline_sample_is_asked_with_the_protocol_of_the_benchmark() -> None:
    asked = offline("gsm8k")
    requests = list(asked.requests())
    assert (asked.source, asked.offline, asked.shots, asked.seed) == (
        "offline sample",
        True,
        5,
        1234,
    )
    assert [request.id for request in requests] == [sample.id for sample in asked.samples]
    assert all(request.prompt.count("Question: ") == 6 for request in requests)  # type: ignore[union-attr]
    assert all(request.sampling == asked.task.sampling for request in requests)


def test_limit_asks_the_beginning_and_leaves_the_examples_as_they_are() -> None:
    whole, some = offline("gsm8k"), offline("gsm8k", limit=2)
    assert (some.limit, len(some.samples)) == (2, 2)
    assert list(some.requests()) == list(whole.requests())[:2]


def test_limit_is_taken_in_turn_from_the_groups(tmp_path: Path) -> None:
    root = own_mmlu(tmp_path, *"aaaabbbccd")
    for limit, expected in (
        (3, "abc"),
        (4, "abcd"),
        (6, "aabbcd"),
        (9, "aaabbbccd"),
        (99, "aaaabbbccd"),
    ):
        asked = questions(registry.task("mmlu"), data_root=root, limit=limit)
        assert "".join(sample.group for sample in asked.samples) == expected
        assert [sample.id for sample in asked.samples] == sorted(s.id for s in asked.samples)


def test_limited_question_keeps_its_own_examples(tmp_path: Path) -> None:
    whole = {request.id: request for request in offline("mmlu").requests()}
    for request in offline("mmlu", limit=4).requests():
        assert request == whole[request.id]


def test_requests_can_be_made_twice() -> None:
    asked = offline("medqa")
    first: list[Request] = list(asked.requests())
    assert first == list(asked.requests())
    assert len(first) == len(asked.samples)


def test_shots_and_seed_of_the_caller_win() -> None:
    asked = offline("gsm8k", shots=1, seed=7)
    assert (asked.shots, asked.seed) == (1, 7)
    assert list(asked.requests()) != list(offline("gsm8k", shots=1).requests())
    none = offline("gsm8k", shots=0, seed=7)
    assert (none.shots, none.seed, set(none.examples)) == (0, None, {()})
    # Nothing is drawn where the first ones are shown.
    assert offline("mmlu", seed=7).seed is None


@pytest.mark.parametrize(
    ("name", "shots", "message"),
    [
        ("math", 1, "`--shots 1`: `math` has no examples to show"),
        ("gsm8k", -1, "`--shots -1` is negative"),
        ("gsm8k", 9, "`--shots 9` for `gsm8k`, which has 8 example(s) to show"),
    ],
)
def test_shots_that_cannot_be_shown_are_refused(name: str, shots: int, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        offline(name, shots=shots)
    assert raised.value.message == message


def test_chat_gives_turns() -> None:
    request = next(offline("mmlu", chat=True).requests())
    roles = [message.role for message in request.prompt if not isinstance(message, str)]
    assert Counter(roles) == {"system": 1, "user": 6, "assistant": 5}
    assert request.choices == ("A", "B", "C", "D")


def test_dataset_that_is_nowhere_points_to_the_data_root_and_the_offline_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(
        registry.task("gsm8k"), dataset=replace(registry.task("gsm8k").dataset, path="/no")
    )
    with pytest.raises(DatasetNotFoundError) as raised:
        questions(gone, data_root=tmp_path)
    assert "`gsm8k` with `--offline-sample`" in raised.value.hint


def test_bad_row_is_named_by_file_and_number(tmp_path: Path) -> None:
    root = own_mmlu(tmp_path, "a", "b")
    path = root / "cais" / "mmlu" / "all" / "test.jsonl"
    path.write_text(
        path.read_text().replace('"answer": 2, "subject": "b"', '"answer": 4, "subject": "b"')
    )
    with pytest.raises(DataError) as raised:
        questions(registry.task("mmlu"), data_root=root)
    assert raised.value.message == (
        f"row 2 of `{path}`: the right choice should be one of 0 to 3, but is 4"
    )


def test_two_questions_of_one_id_are_refused(tmp_path: Path) -> None:
    task = registry.task("mmlu")
    same = replace(task, to_sample=lambda row, index: task.to_sample(row, 0))
    with pytest.raises(DataError, match=r"row 2 of .* has the id `a-0` of row 1 of"):
        questions(same, data_root=own_mmlu(tmp_path, "a", "a"), shots=0)


def test_revision_and_files_are_those_of_the_data_root(tmp_path: Path) -> None:
    root = own_mmlu(tmp_path, "a")
    asked = questions(registry.task("mmlu"), data_root=root)
    assert asked.source == f"data root {root}"
    assert asked.revision.startswith("sha256:")
    assert [path.name for path in asked.files] == ["test.jsonl", "dev.jsonl"]


@pytest.mark.data
def test_limit_asks_every_subject_of_mmlu(data_root: Path) -> None:
    asked = questions(registry.task("mmlu"), data_root=data_root, limit=60)
    counts = Counter(sample.group for sample in asked.samples)
    assert len(counts) == 57
    assert sorted(counts.values()) == [1] * 54 + [2] * 3
