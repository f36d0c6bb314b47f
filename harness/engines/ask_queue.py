"""Many asks under way at once, and their answers as they come."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator

from harness.engines.ask import Ask
from harness.engines.server import AttemptError, Server
from harness.types import Completion

_LOST_IN_A_ROW = 3  # without an answer in between: the server is gone, not one request at fault


class AskQueue:
    """Takes asks one by one into as many tasks as may run at once, and collects the answers."""

    def __init__(self, server: Server, pending: Iterator[Ask], concurrency: int) -> None:
        self.lost: list[tuple[str, AttemptError]] = []
        self._server = server
        self._pending = pending
        self._concurrency = concurrency
        self._answered: list[Completion] = []
        self._in_a_row = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    async def next_ones(self) -> list[Completion]:
        """What was answered since the last call, at least one; none when all is done."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]
            self._all = asyncio.gather(*self._tasks)
            self._all.add_done_callback(lambda _: self._news.set())
        while not self._answered and not self._all.done():
            self._news.clear()
            await self._news.wait()
        if not self._answered:
            await self._all  # a bug in a task is raised here
        answered, self._answered = self._answered, []
        return answered

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while (ask := next(self._pending, None)) is not None:
            began = time.monotonic()
            try:
                completion = await self._server.ask(ask.path, ask.body, ask.read)
            except AttemptError as trouble:
                self.lost.append((ask.request_id, trouble))
                self._in_a_row += 1
                if trouble.fatal or self._in_a_row >= _LOST_IN_A_ROW:
                    self._pending = iter(())
                    return
            else:
                self._in_a_row = 0
                latency = time.monotonic() - began
                self._answered.append(dataclasses.replace(completion, latency_s=latency))
                self._news.set()
