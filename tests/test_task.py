from __future__ import annotations

import random
from collections import Counter
from typing import Any, Literal

import pytest

from harness.errors import UsageError
from harness.scorers import CHOICE, HENDRYCKS
from harness.task import FewShot, Task, draw_shots, render
from harness.types import Dataset, Message, Request, Sample, SamplingParams

TEST, TRAIN = Dataset(path="org/quiz"), Dataset(path="org/quiz", split="train")
SAMPLING = SamplingParams(max_tokens=9, stop=("Q:",))


def sample(name: str, group: str = "", **fields: Any) -> Sample:
    return Sample(id=name, input=f"Q: {name}?\nA:", target=f"{name}!", group=group, **fields)


def task(**fields: Any) -> Task:
    given: dict[str, Any] = {
        "name": "quiz",
        "version": 1,
        "title": "Quiz",
        "source": "here",
        "dataset": TEST,
        "columns": (),
        "to_sample": lambda row, index: sample(str(index)),
        "kind": "generate",
        "scorers": (HENDRYCKS,),
        "offline": "quiz.jsonl",
        "sampling": SAMPLING,
    }
    return Task(**{**given, **fields})


def fewshot(
    n: int = 2, rule: Literal["first", "random"] = "random", by_group: bool = False
) -> FewShot:
    return FewShot(dataset=TRAIN, n=n, rule=rule, by_group=by_group)


POOL = [sample(f"shot{i}", group="ab"[i % 2]) for i in range(10)]
ASKED = [sample(f"q{i}", group="ab"[i % 2]) for i in range(50)]


def ids(drawn: list[tuple[Sample, ...]]) -> list[list[str]]:
    return [[shot.id for shot in shots] for shots in drawn]


def test_variant_is_part_of_the_id() -> None:
    assert (task().id, task(variant="cot").id) == ("quiz", "quiz:cot")


def test_one_generator_serves_all_questions_in_order() -> None:
    drawn = list(draw_shots(task(fewshot=fewshot()), ASKED, POOL, 3, None))
    generator = random.Random(1234)
    assert drawn == [tuple(generator.sample(POOL, 3)) for _ in ASKED]


def test_another_seed_draws_others() -> None:
    asked = task(fewshot=fewshot())
    one = list(draw_shots(asked, ASKED, POOL, 3, 1))
    assert one == list(draw_shots(asked, ASKED, POOL, 3, 1))
    assert one != list(draw_shots(asked, ASKED, POOL, 3, None))


def test_question_is_never_its_own_example() -> None:
    own = task(fewshot=FewShot(dataset=TEST, n=2))
    drawn = list(draw_shots(own, ASKED, ASKED, 49, None))
    assert all(len(shots) == 49 for shots in drawn)
    assert all(q.id not in {s.id for s in shots} for q, shots in zip(ASKED, drawn, strict=True))


def test_drawn_examples_spread_over_the_pool() -> None:
    drawn = draw_shots(task(fewshot=fewshot()), ASKED * 20, POOL, 2, None)
    counts = Counter(shot.id for shots in drawn for shot in shots)
    assert len(counts) == len(POOL)
    assert min(counts.values()) > 100


def test_first_examples_are_those_of_the_group() -> None:
    grouped = task(fewshot=fewshot(rule="first", by_group=True))
    drawn = ids(list(draw_shots(grouped, ASKED[:2], POOL, 2, None)))
    assert drawn == [["shot0", "shot2"], ["shot1", "shot3"]]
    whole = task(fewshot=fewshot(rule="first"))
    assert ids(list(draw_shots(whole, ASKED[:1], POOL, 3, None))) == [["shot0", "shot1", "shot2"]]


def test_fixed_examples_are_those_of_the_protocol() -> None:
    fixed = task(fewshot=FewShot(n=2, examples=tuple(POOL[:3]), rule="fixed"))
    assert ids(list(draw_shots(fixed, ASKED[:2], POOL[:3], 2, None))) == [["shot0", "shot1"]] * 2


@pytest.mark.parametrize("rule", [None, fewshot()])
def test_no_shots_need_no_pool(rule: FewShot | None) -> None:
    assert list(draw_shots(task(fewshot=rule), ASKED, [], 0, None)) == [()] * len(ASKED)


@pytest.mark.parametrize("rule", [fewshot(), fewshot(rule="first")])
def test_more_examples_than_there_are_is_refused(rule: FewShot) -> None:
    with pytest.raises(UsageError, match="`--shots 11` for `quiz`, which has 10 example") as raised:
        list(draw_shots(task(fewshot=rule), ASKED, POOL, 11, None))
    assert raised.value.hint == "use `--shots 10` or fewer"


def test_group_without_examples_is_refused() -> None:
    grouped = task(fewshot=fewshot(rule="first", by_group=True))
    with pytest.raises(UsageError, match="0 example"):
        list(draw_shots(grouped, [sample("q", group="c")], POOL, 1, None))


def test_text_prompt_is_description_examples_and_question() -> None:
    about = task(description=lambda asked: f"About {asked.group}.\n\n")
    assert render(about, ASKED[1], POOL[:2], chat=False) == Request(
        id="q1",
        kind="generate",
        prompt=("About b.\n\nQ: shot0?\nA: shot0!\n\nQ: shot1?\nA: shot1!\n\nQ: q1?\nA:"),
        sampling=SAMPLING,
    )


def test_chat_prompt_has_the_examples_as_turns() -> None:
    about = task(description=lambda asked: "Be brief.\n\n")
    assert render(about, ASKED[0], POOL[:1], chat=True).prompt == (
        Message(role="system", content="Be brief.\n\n"),
        Message(role="user", content="Q: shot0?\nA:"),
        Message(role="assistant", content="shot0!"),
        Message(role="user", content="Q: q0?\nA:"),
    )
    assert render(task(), ASKED[0], (), chat=True).prompt == (
        Message(role="user", content="Q: q0?\nA:"),
    )


def test_choices_carry_the_delimiter_only_in_text() -> None:
    asked = sample("q", choices=("A", "B"))
    choose = task(kind="choose", scorers=(CHOICE,))
    text, chat = (render(choose, asked, (), chat=chat) for chat in (False, True))
    assert (text.choices, text.sampling) == ((" A", " B"), None)
    assert chat.choices == ("A", "B")


def test_question_of_messages_is_asked_as_a_chat() -> None:
    turns = (Message(role="system", content="s"), Message(role="user", content="u"))
    asked = Sample(id="q", input=turns, target="t")
    assert render(task(), asked, (), chat=False).prompt == turns
    assert render(task(), asked, POOL[:1], chat=True).prompt == (
        Message(role="user", content="Q: shot0?\nA:"),
        Message(role="assistant", content="shot0!"),
        *turns,
    )
