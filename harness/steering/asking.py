"""Activations from a worker, each taken once: files are named after what is in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import activation_file
from harness.activation_file import Vectors
from harness.errors import WorkerError
from harness.infer import ONLY_SPEED
from harness.launch import ended_on_exit, explain, start
from harness.runs import WORKER_LOG, write_atomically
from harness.types import JSON, ModelSpec, to_json

WORKER = "harness.engines.taking"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steer:
    """path: vector file. layers of the file are all used."""

    path: Path
    strength: float
    keep_norm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """texts: in order. layers: from 0, sorted. steers: None for the model as it is."""

    texts: tuple[str, ...]
    layers: tuple[int, ...]
    pooling: str
    steers: tuple[Steer | None, ...] = (None,)

    def key(self, spec: ModelSpec, settings: JSON, steer: Steer | None) -> str:
        """Hash of everything that the numbers depend on."""
        numbers = {name: value for name, value in settings.items() if name not in ONLY_SPEED}
        parts = {
            "model": [spec.fingerprint, spec.adapter, spec.dtype, numbers],
            "texts": hashlib.sha256(json.dumps(self.texts).encode()).hexdigest(),
            "layers": self.layers,
            "pooling": self.pooling,
            "steer": steer and [steer.path.stem, steer.strength, steer.keep_norm],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Asking:
    """cache: folder of activation files. folder: of the run; hold: its lock."""

    def __init__(
        self,
        cache: Path,
        folder: Path,
        settings: JSON,
        hold: Sequence[int],
        tell: Callable[[str, JSON], None],
    ) -> None:
        self._cache, self._folder, self._settings = cache, folder, settings
        self._hold, self._tell = hold, tell
        self.info: JSON = {}
        self.stats: list[JSON] = []
        self.prompt_tokens = 0

    def take(self, spec: ModelSpec, takes: Sequence[Take], width: int) -> None:
        """Make sure that all these activations are in the cache; what is there is not taken again.

        Raises WorkerError when the model cannot be loaded or asked.
        """
        self._cache.mkdir(parents=True, exist_ok=True)
        open_takes = [
            self._job(spec, take, n)
            for n, take in enumerate(takes)
            if not self._whole(spec, take, width)
        ]
        if not open_takes:
            return
        job = {"model": to_json(spec), "settings": self._settings, "takes": open_takes}
        path = self._folder / "take.json"
        write_atomically(path, json.dumps(job))
        log = self._folder / WORKER_LOG
        python = str(self._settings.get("python", ""))
        child = start(WORKER, [str(path)], log=log, python=python, hold=self._hold)
        assert child.stdout is not None
        with ended_on_exit(child):
            for line in child.stdout:
                self._hear(spec, json.loads(line))
            ending = explain(child.wait(), log)
        if ending.cause:
            raise WorkerError(
                f"the worker of the sweep ended early: {ending.message}",
                f"the whole log is in {log}; the same command goes on where it stopped",
                cause=ending.cause,
            )

    def _hear(self, spec: ModelSpec, event: JSON) -> None:
        match event["event"]:
            case "failed":
                raise WorkerError(event["message"], event["hint"], cause=event["cause"])
            case "loaded":
                self.info = event["info"]
            case "progress":
                self._tell(spec.name, event)
            case "stats":
                self.stats.append({"model": spec.name, **event["stats"]})
                self.prompt_tokens += event["stats"]["tokens"]

    def read(self, spec: ModelSpec, take: Take, steer: Steer | None, width: int) -> Vectors:
        """(texts, layers, width)."""
        path = self.path(spec, take, steer)
        return activation_file.read(path, len(take.texts), len(take.layers), width)

    def path(self, spec: ModelSpec, take: Take, steer: Steer | None) -> Path:
        return self._cache / f"{take.key(spec, self._settings, steer)}.bin"

    def _whole(self, spec: ModelSpec, take: Take, width: int) -> bool:
        length = activation_file.record(len(take.layers) * width).itemsize
        paths = [self.path(spec, take, steer) for steer in take.steers]
        sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
        return all(size == length * len(take.texts) for size in sizes)

    def _job(self, spec: ModelSpec, take: Take, number: int) -> JSON:
        texts = self._folder / f"texts-{number}.jsonl"
        write_atomically(texts, "".join(json.dumps(text) + "\n" for text in take.texts))
        return {
            "texts": str(texts),
            "layers": take.layers,
            "pooling": take.pooling,
            "points": [
                {
                    "out": str(self.path(spec, take, steer)),
                    "vector": str(steer.path) if steer else None,
                    "lambda": steer.strength if steer else 0.0,
                    "keep_norm": steer.keep_norm if steer else True,
                }
                for steer in take.steers
            ],
        }


def layer_mean(vectors: Vectors) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(texts, width): several layers count as their mean."""
    return np.asarray(vectors.mean(axis=1, dtype=float))
