"""How requests are given to replicas."""

from __future__ import annotations

import random

import pytest

from harness.engines.shards import LEAST, Shards
from harness.types import Message, Request

INTROS = ["Examples of algebra: " * 20, "Examples of biology: " * 20, "Examples of law: " * 20]


def questions(count: int) -> list[Request]:
    made = [
        Request(id=f"{n}/{i}", kind="generate", prompt=f"{intro}Question {i}")
        for n, intro in enumerate(INTROS)
        for i in range(count)
    ]
    random.Random(0).shuffle(made)
    return made


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
def test_every_request_is_taken_once_whatever_the_pace_of_each_replica(replicas: int) -> None:
    asked, draws = questions(100), random.Random(1)
    shards = Shards(asked, replicas)
    taken: list[str] = []
    for _ in range(1000):
        # The first is slow: others must take over what it does not get at.
        slot = draws.choice([0, *[s for s in range(replicas) for _ in range(9)]])
        taken += [request.id for request in shards.take(slot)]
    assert sorted(taken) == sorted(request.id for request in asked)


def test_regions_begin_where_prefixes_change() -> None:
    shards = Shards(questions(90), 3)
    first = [shards.take(slot) for slot in range(3)]
    assert [{request.id[0] for request in taken} for taken in first] == [{"0"}, {"1"}, {"2"}]


def test_the_tail_is_shared_by_those_who_are_done() -> None:
    shards = Shards(questions(100), 2)
    while shards.take(1):
        if not shards._regions[1]:
            break
    left = len(shards._regions[0])
    stolen = shards.take(1)
    assert len(stolen) >= LEAST
    assert len(shards._regions[0]) == pytest.approx(left / 2, rel=0.3)


def test_what_was_not_done_is_the_next_to_be_taken_by_anyone() -> None:
    shards = Shards(questions(10), 2)
    lost = shards.take(0)
    shards.give_back(0, lost[3:])
    taken = [request.id for _ in range(20) for request in shards.take(1)]
    assert set(taken) >= {request.id for request in lost[3:]}
    assert not {request.id for request in lost[:3]} & set(taken)


def test_conversations_are_placed_by_what_is_said() -> None:
    turn = (Message(role="user", content="hello"),)
    asked = [
        Request(id="talk", kind="generate", prompt=turn),
        Request(id="score", kind="choose", prompt="z", choices=("a", "b")),
    ]
    assert [request.id for request in Shards(asked, 1).take(0)] == ["score", "talk"]
