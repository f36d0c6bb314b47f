"""Data parallel: several whole engines in processes of their own, each with its share of requests.

vLLM's offline engine does not divide requests among replicas by itself.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Container, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from harness.engines.base import EngineInfo, StartAnewError, Tokenized, VLLMSettings
from harness.engines.prompts import Key, missing
from harness.engines.vllm import VLLMEngine
from harness.errors import WorkerError
from harness.types import JSON, Completion, ModelSpec, Request

_SUMMED = ("forwarded_tokens", "distinct_tokens", "decoded_tokens", "requests")


class ReplicatedEngine:
    """As many engines as `data_parallel_size` says; this process only tokenizes and divides."""

    def __init__(
        self, model: ModelSpec, settings: VLLMSettings, companions: Sequence[ModelSpec], count: int
    ) -> None:
        self._models = (model, *companions)
        self._settings = dataclasses.replace(settings, data_parallel_size=1)
        self._tokenizing = VLLMEngine(model, self._settings)
        self._count = count
        self._pipes: list[Connection] = []
        self.switch(model)

    def switch(self, model: ModelSpec) -> None:
        self._model = model
        self._requests: list[Request] = []
        self._tokenizing.switch(model)

    def tokenize(self, requests: Sequence[Request]) -> Tokenized:
        counted = self._tokenizing.tokenize(requests)
        self._requests += requests
        return counted

    def load(self) -> EngineInfo:
        if not self._pipes:
            self._pipes = [self._start(number) for number in range(self._count)]
        infos: list[EngineInfo] = self._ask_all("load", self._model, self._requests)
        return dataclasses.replace(infos[0], gpus=sum(info.gpus for info in infos))

    def _start(self, number: int) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        devices = self._devices(number)
        arguments = (theirs, self._models, self._settings, devices)
        context.Process(target=_serve, args=arguments, daemon=True).start()
        theirs.close()
        return ours

    def _devices(self, number: int) -> str | None:
        """The GPUs of one replica, None on a CPU. Raises WorkerError where there are too few."""
        import torch

        width = (self._settings.tensor_parallel_size or self._model.tensor_parallel_size) * (
            self._settings.pipeline_parallel_size or self._model.pipeline_parallel_size
        )
        visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        visible = visible or [str(n) for n in range(torch.cuda.device_count())]
        if not visible:
            return None
        if len(visible) < width * self._count:
            raise WorkerError(
                f"{self._count} replicas of {width} GPU(s) need {width * self._count}, and "
                f"{len(visible)} are visible",
                "lower `data_parallel_size` or `tensor_parallel_size`",
                cause="device",
            )
        return ",".join(visible[number * width : (number + 1) * width])

    def _ask_all(self, *command: Any) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(command)
        return [_received(pipe) for pipe in self._pipes]

    def run(
        self, requests: Sequence[Request], skip: Container[Key] = frozenset()
    ) -> Iterator[Completion]:
        shares, done = self._shares(requests, skip)
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send(("run", share, done))
        busy = list(self._pipes)
        while busy:
            for ready in wait(busy):
                assert isinstance(ready, Connection)
                completion = _received(ready)
                if completion is None:
                    busy.remove(ready)
                else:
                    yield completion

    def _shares(
        self, requests: Sequence[Request], skip: Container[Key]
    ) -> tuple[list[list[Request]], frozenset[Key]]:
        """Neighbours in the order of their prompts stay together, for the sake of the prefix
        caches; each share has about as many tokens to read and to write."""
        prepared = self._tokenizing.prepared(requests)
        everything = {(p.request.id, n) for p in prepared for n in missing(p, frozenset())}
        pending = sorted((p for p in prepared if missing(p, skip)), key=lambda p: p.prompt)
        weights = [len(p.prompt) // 4 + p.added_tokens() * len(missing(p, skip)) for p in pending]
        shares: list[list[Request]] = [[] for _ in range(self._count)]
        total, passed = max(1, sum(weights)), 0
        for one, weight in zip(pending, weights, strict=True):
            shares[min(self._count - 1, passed * self._count // total)].append(one.request)
            passed += weight
        return shares, frozenset(key for key in everything if key in skip)

    def stats(self) -> JSON:
        """As those of one engine, summed over the replicas."""
        found = self._ask_all("stats")
        return {**found[0], **{name: sum(one[name] for one in found) for name in _SUMMED}}


def _received(pipe: Connection) -> Any:
    try:
        value = pipe.recv()
    except EOFError:
        raise WorkerError(
            "a replica of vLLM ended early",
            "its last lines are in the log; the same command goes on where it stopped",
            cause="killed",
        ) from None
    if isinstance(value, _Failure):
        if value.cause == "start_anew":
            raise StartAnewError(value.message)
        raise WorkerError(value.message, value.hint, cause=value.cause)
    return value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    message: str
    hint: str
    cause: str


def _serve(
    pipe: Connection, models: Sequence[ModelSpec], settings: VLLMSettings, devices: str | None
) -> None:
    """The process of one replica. It ends when the pipe closes."""
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    engine = VLLMEngine(models[0], settings, models[1:])
    while True:
        try:
            name, *given = pipe.recv()
        except EOFError:
            return
        try:
            for value in _answered(engine, name, given):
                pipe.send(value)
        except WorkerError as error:
            pipe.send(_Failure(message=error.message, hint=error.hint, cause=error.cause))


def _answered(engine: VLLMEngine, name: str, given: Sequence[Any]) -> Iterator[Any]:
    if name == "load":
        model, requests = given
        engine.switch(model)
        engine.tokenize(requests)
        yield engine.load()
    elif name == "run":
        yield from engine.run(*given)
        yield None
    else:
        yield engine.stats()
