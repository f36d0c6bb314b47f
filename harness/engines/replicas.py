"""Replicas of an engine as actors of a Ray cluster, behind the interface of one engine."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from harness.engines.base import Engine, EngineInfo, Tokenized
from harness.engines.shards import Shards
from harness.errors import WorkerError
from harness.types import JSON, Completion, ModelSpec, Request, completion_from_json, to_json

PACKAGE = Path(__file__).resolve().parent.parent
MOST_DEATHS = 3
"""Of replicas over the same request, or before any of them is loaded: then it is no accident."""

_POLL_S = 1.0
_LISTENER_S = 10.0
_STORE_BYTES = 256 * 2**20  # answers are small


@dataclasses.dataclass(slots=True, eq=False)
class _Place:
    """A place for a replica: the actor that fills it, and what that is doing.

    stream: of the call that is under way, to load or to answer `asked`.
    """

    slot: int
    actor: Any = None
    stream: Any = None
    loaded: bool = False
    asked: list[Request] = dataclasses.field(default_factory=list)


class RayEngine:
    """The same answers as from one engine, from several at once.

    Every replica that is lost, with its node or alone, is replaced as soon as the cluster has room,
    so nodes may come and go; what it had not answered is asked again, and an answer counts once.
    """

    def __init__(
        self,
        name: str,
        model: ModelSpec,
        settings: JSON,
        make_engine: Callable[[str, ModelSpec, JSON], Engine],
    ) -> None:
        self._name, self._model = name, model
        self._replicas = int(settings.get("replicas", 1))
        self._address = str(settings.get("ray_address", ""))
        self._settings = {k: v for k, v in settings.items() if k not in ("replicas", "ray_address")}
        self._inner = make_engine(name, model, self._settings)
        self._places: list[_Place] = []
        self._deaths = 0
        self._early_deaths = 0

    def tokenize(self, requests: Sequence[Request]) -> Tokenized:
        return self._inner.tokenize(requests)

    def load(self) -> EngineInfo:
        """Returns when the first replica is loaded; the others may still wait for room."""
        self._connect()
        self._gpus = self._gpus_each()
        count = self._replicas or self._fitting()
        self._cpus = _cpus_each(count)
        self._places = [_Place(slot=slot) for slot in range(count)]
        while not (first := [info for info in map(self._loaded, self._wait()) if info]):
            pass
        info = EngineInfo(**first[0])
        return dataclasses.replace(
            info,
            engine_version=f"{info.engine_version}, {count} replicas",
            gpus=self._gpus * count,
            packages={**info.packages, "ray": ray.__version__},
        )

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # GPUs are given by number; without, Ray hides the driver's from replicas that ask for none.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = self._address or os.environ.get("RAY_ADDRESS", "")
        try:
            if address not in ("", "local", "auto"):
                _require_listener(address)
            if address not in ("", "local"):
                ray.init(address=address, logging_level="warning")
            elif address == "local" or not _joined():
                ray.init(
                    address="local",
                    logging_level="warning",
                    object_store_memory=_STORE_BYTES,
                    include_dashboard=False,
                )
        except Exception as error:  # Ray raises no narrower one where a node is slow to start
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            there = address not in ("", "local")
            what = f"the Ray cluster at `{address}` cannot be reached"
            raise WorkerError(
                f"{what if there else 'a Ray cluster cannot be started here'}: {said}",
                "`ray status` shows whether it is up; leave `--ray-address` out to start one here"
                if there
                else "the same command tries again; on a busy machine `ray start --head` first",
                cause="server_unreachable",
            ) from error

    def _gpus_each(self) -> int:
        """Of one replica: none where the cluster has none."""
        if not ray.cluster_resources().get("GPU") or self._name == "mock":
            return 0
        sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
        each = 1
        for size in sizes:
            each *= int(self._settings.get(size) or getattr(self._model, size, 1) or 1)
        return each

    def _fitting(self) -> int:
        """As many as the cluster has GPUs for; without GPUs one to each node."""
        if self._gpus:
            return max(1, int(ray.cluster_resources()["GPU"]) // self._gpus)
        return max(1, sum(bool(node["Alive"]) for node in ray.nodes()))

    def _wait(self) -> list[_Place]:
        """Places with news, after a while at most; empty places are filled first."""
        for place in self._places:
            if place.actor is None:
                self._fill(place)
        busy = {place.stream: place for place in self._places if place.stream is not None}
        if not busy:
            return []
        try:
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=_POLL_S, fetch_local=False)
        except RayError as error:
            raise _gone(error) from None
        return [busy[stream] for stream in ready]

    def _fill(self, place: _Place) -> None:
        actor = _actor_class().options(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0)
        place.actor = actor.remote(str(PACKAGE), self._name, to_json(self._model), self._settings)
        place.stream, place.loaded = place.actor.load.remote(), False

    def _next(self, place: _Place) -> Any:
        """What the call of a place says next, None at its end; empties the place where it died."""
        try:
            stream = place.stream
            said = ray.get(next(stream) if place.loaded else stream)
        except StopIteration:
            return None
        except RayError as error:
            self._bury(place, error)
            return None
        if isinstance(said, dict) and "failed" in said:
            raise WorkerError(**said["failed"])
        return said

    def _bury(self, place: _Place, error: RayError) -> None:
        self._deaths += 1
        self._early_deaths += not place.loaded
        ray.kill(place.actor)
        place.actor = place.stream = None
        if self._early_deaths >= MOST_DEATHS and not any(one.loaded for one in self._places):
            said = " ".join(str(error).split())[-300:]
            raise WorkerError(
                f"replicas of `{self._model.name}` end while they load: {said}",
                "try it with one replica; the whole log is beside the run",
                cause="killed",
            )
        place.loaded = False

    def _loaded(self, place: _Place) -> JSON | None:
        """Takes in that a place has loaded; what its engine is."""
        info: JSON | None = self._next(place)
        if info is not None:
            place.loaded, place.stream = True, None
        return info

    def run(
        self, requests: Sequence[Request], skip: Container[tuple[str, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Raises WorkerError where replicas die over the same request again and again."""
        work = _Work(requests, skip, len(self._places))
        for place in self._places:
            if place.actor is not None and place.loaded:
                self._ask(place, work)
        while work.left:
            for place in self._wait():
                if not place.loaded:
                    if self._loaded(place) is not None:
                        self._ask(place, work)
                    continue
                said = self._next(place)
                if said is None:
                    self._finish(place, work)
                else:
                    yield from work.new(said)

    def _ask(self, place: _Place, work: _Work) -> None:
        place.asked = work.shards.take(place.slot)
        if not place.asked:
            place.stream = None
            return
        plain = [(to_json(request), work.done(request)) for request in place.asked]
        place.stream = place.actor.run.remote(plain)

    def _finish(self, place: _Place, work: _Work) -> None:
        """A call has ended: well, or with its replica, whose rest goes back to be taken."""
        rest = [request for request in place.asked if request.id in work.left]
        place.asked = []
        if rest:
            work.returned(rest)
            work.shards.give_back(place.slot, rest)
        for idle in self._places:
            if idle.actor is not None and idle.loaded and (idle is place or idle.stream is None):
                self._ask(idle, work)

    def stats(self) -> JSON:
        """replicas: how many places; deaths: replicas that ended early and were replaced."""
        return {"replicas": len(self._places), "deaths": self._deaths}


class _Work:
    """Which answers are still to come."""

    def __init__(
        self, requests: Sequence[Request], skip: Container[tuple[str, int]], replicas: int
    ) -> None:
        indices = {one.id: range(one.sampling.n if one.sampling else 1) for one in requests}
        self._counts = {name: len(own) for name, own in indices.items()}
        self.left = {
            name: left
            for name, own in indices.items()
            if (left := {index for index in own if (name, index) not in skip})
        }
        self.shards = Shards([one for one in requests if one.id in self.left], replicas)
        self._deaths: dict[str, int] = {}

    def done(self, request: Request) -> list[int]:
        return [n for n in range(self._counts[request.id]) if n not in self.left[request.id]]

    def new(self, said: Sequence[JSON]) -> Iterator[Completion]:
        """Those that nobody has answered before."""
        for completion in map(completion_from_json, said):
            left = self.left.get(completion.request_id, set())
            if completion.index in left:
                left.discard(completion.index)
                if not left:
                    del self.left[completion.request_id]
                yield completion

    def returned(self, requests: Sequence[Request]) -> None:
        for request in requests:
            count = self._deaths[request.id] = self._deaths.get(request.id, 0) + 1
            if count >= MOST_DEATHS:
                raise WorkerError(
                    f"{count} replicas ended early over `{request.id}` or requests beside it",
                    "look for `out of memory` in the log; the same command goes on",
                    cause="killed",
                )


def _require_listener(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host or address, int(port or 6379)), timeout=_LISTENER_S).close()


def _joined() -> bool:
    """Whether a cluster runs on this machine already, which is then used."""
    try:
        ray.init(address="auto", logging_level="warning")
    except ConnectionError:
        return False
    return True


def _cpus_each(count: int) -> int:
    """The most of them with which that many replicas find room on the nodes that there are."""
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    fitting = [
        each for each in range(1, max(cpus, default=1) + 1) if sum(n // each for n in cpus) >= count
    ]
    return max(fitting, default=1)


def _gone(error: RayError) -> WorkerError:
    said = " ".join(str(error).split())[:200]
    return WorkerError(
        f"the Ray cluster is gone: {said}",
        "`ray status` shows whether it is up; the same command goes on",
        cause="server_unreachable",
    )


def _actor_class() -> Any:
    """Defined in here, Ray sends it by value: a node needs our package alone, at the same path or
    installed, and not the environment around it (compare `harness.launch`)."""

    class Replica:
        def __init__(self, package: str, engine: str, model: JSON, settings: JSON) -> None:
            import importlib.util
            import os
            import sys

            if "harness" not in sys.modules and os.path.isdir(package):
                spec = importlib.util.spec_from_file_location(
                    "harness", package + "/__init__.py", submodule_search_locations=[package]
                )
                assert spec is not None
                assert spec.loader is not None
                sys.modules["harness"] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules["harness"])
            from harness.engines.replica import Replica as Answering

            self._replica = Answering(engine, model, settings)

        def load(self) -> Any:
            return self._replica.load()

        def run(self, asked: Any) -> Any:
            yield from self._replica.run(asked)

    return ray.remote(Replica)
