"""One replica of an engine inside a Ray actor. Plain JSON goes in and comes out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from harness.engines.base import Engine
from harness.errors import WorkerError
from harness.types import JSON, ModelSpec, request_from_json, to_json

_FLUSH_S = 0.2  # a message for each answer would cost more than a short one takes


def failure(error: WorkerError) -> JSON:
    return {"failed": {"message": error.message, "hint": error.hint, "cause": error.cause}}


class Replica:
    """engine: makes the engine that answers (see `harness.engines.worker.make_engine`)."""

    def __init__(self, engine: str, model: JSON, settings: JSON) -> None:
        from harness.engines.worker import make_engine

        self._engine: Engine = make_engine(engine, ModelSpec(**model), settings)

    def load(self) -> JSON:
        try:
            return dataclasses.asdict(self._engine.load())
        except WorkerError as error:
            return failure(error)

    def run(self, asked: Sequence[tuple[JSON, Sequence[int]]]) -> Iterator[Any]:
        """Lists of completions as they come. asked: requests, each with what of it is answered."""
        requests = [request_from_json(request) for request, _ in asked]
        skip = {(request["id"], index) for request, done in asked for index in done}
        answered: list[JSON] = []
        sent = time.monotonic()
        try:
            for completion in self._engine.run(requests, skip):
                answered.append(to_json(completion))
                if time.monotonic() - sent > _FLUSH_S:
                    yield answered
                    answered, sent = [], time.monotonic()
        except WorkerError as error:
            yield failure(error)
        yield answered

    def stats(self) -> JSON:
        return self._engine.stats()
