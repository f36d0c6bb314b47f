"""How the number of requests under way follows what the server bears, with a clock of our own."""

from __future__ import annotations

import asyncio

from harness.engines.pacing import Gate


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_limit_is_halved_once_for_all_that_was_sent_before_the_cut() -> None:
    clock = Clock()
    gate = Gate(64, clock)
    clock.now = 1.0
    for _ in range(64):
        gate.overloaded(sent_at=0.5)
    assert gate.limit == 32
    clock.now = 2.0
    gate.overloaded(sent_at=1.5)
    assert (gate.limit, gate.least_limit) == (16, 16)


def test_the_limit_grows_by_one_for_each_limit_full_of_answers_and_never_past_its_start() -> None:
    gate = Gate(8, Clock())
    gate.overloaded(sent_at=0.0)
    for _ in range(4):
        gate.answered()
    assert 4.8 < gate.limit <= 5
    for _ in range(100):
        gate.answered()
    assert (gate.limit, gate.least_limit) == (8, 4)


def test_one_request_is_always_allowed() -> None:
    clock = Clock()
    gate = Gate(1, clock)
    for _ in range(5):
        clock.now += 1
        gate.overloaded(sent_at=clock.now - 0.5)
    assert gate.limit == 1


def test_nobody_waits_for_ever_where_waiters_are_cancelled() -> None:
    async def crowd() -> list[int]:
        gate, order = Gate(2), []

        async def pass_through(number: int) -> None:
            async with gate:
                order.append(number)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(pass_through(n)) for n in range(8)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order

    assert sorted(asyncio.run(crowd())) == [0, 1, 2, 4, 5, 6, 7]
