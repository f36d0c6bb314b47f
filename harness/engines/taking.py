"""The worker of a sweep: `python -m harness.engines.taking JOB`, where JOB is one JSON object.

It loads one model, takes the activations of lists of texts at a number of steerings, appends them
to a file for each steering, and reports to its parent as `harness.engines.worker` does:

    {"event": "loaded", "info"}, {"event": "progress", …}, {"event": "stats", "stats"},
    {"event": "failed", "cause", "message", "hint"}
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from harness import activation_file
from harness.engines.activations import Activations, Wanted
from harness.engines.base import EngineInfo, HFSettings
from harness.engines.loading import (
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from harness.engines.steering import Steering, read_steering
from harness.engines.tokenizing import PromptEncoder
from harness.engines.trie import size
from harness.engines.worker import Channel, end_with_parent
from harness.errors import WorkerError
from harness.types import JSON, ModelSpec, Request


def work_on(job: JSON, channel: Channel) -> None:
    spec, settings = ModelSpec(**job["model"]), HFSettings(**job["settings"])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config, tokenizer = load_config(spec), load_tokenizer(spec)
    context = context_length(spec, config, tokenizer, settings.max_model_len)
    encoder = PromptEncoder(tokenizer, spec.name, spec.chat_template)
    device = pick_device(spec, settings.device)
    model = load_model(spec, config, pick_dtype(spec, settings.dtype, device), device)
    channel.send("loaded", info=dataclasses.asdict(_info(model, device)))
    activations = Activations(model, spec, settings.chunk_tokens)
    progress = _Progress(channel, job["takes"])
    for take in job["takes"]:
        texts = _tokens(encoder, Path(take["texts"]), context)
        _take(activations, take, texts, progress)
    channel.send("stats", stats=_stats(activations))


def _info(model: Any, device: torch.device) -> EngineInfo:
    gpu = device.type == "cuda"
    return EngineInfo(
        engine_version=f"transformers {transformers.__version__}",
        dtype=str(model.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(device) if gpu else f"CPU ({torch.get_num_threads()})",
        gpus=int(gpu),
        packages={m.__name__: m.__version__ for m in (torch, transformers, np)},
    )


def _tokens(encoder: PromptEncoder, path: Path, context: int) -> list[bytes]:
    with path.open(encoding="utf-8") as file:
        requests = [
            Request(id=str(i), kind="embed", prompt=json.loads(line)) for i, line in enumerate(file)
        ]
    return [one.prompt for one in encoder.prepare(requests, context)]


def _take(
    activations: Activations, take: JSON, texts: Sequence[bytes], progress: _Progress
) -> None:
    wanted = Wanted(layers=activations.numbers(tuple(take["layers"])), pooling=take["pooling"])
    paths = [Path(point["out"]) for point in take["points"]]
    length = len(wanted.layers) * activations.width
    done = [activation_file.places(path, length) for path in paths]
    steerings = [_steering(point) for point in take["points"]]
    progress.begin(sum(len(texts) - len(some) for some in done))
    found = activations.take(texts, wanted, steerings, lambda row, place: row not in done[place])
    for one in found:
        new = [n for n, row in enumerate(one.rows) if row not in done[one.steering]]
        rows = [one.rows[n] for n in new]
        activation_file.append(paths[one.steering], rows, one.vectors[new].numpy())
        progress.add(len(rows), sum(size(texts[row]) for row in rows))


def _steering(point: JSON) -> Steering | None:
    if point["vector"] is None:
        return None
    return read_steering(point["vector"], point["lambda"], keep_norm=point["keep_norm"])


def _stats(activations: Activations) -> JSON:
    return {
        "layer_forwards": activations.layer_forwards,
        "batches": activations.batches,
        "layers": len(activations.layers),
        "tokens": activations.tokens,
    }


class _Progress:
    """Tells the parent how many vectors are there, at most five times a second."""

    def __init__(self, channel: Channel, takes: Sequence[JSON]) -> None:
        self._channel = channel
        self._counts = {"done": 0, "total": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._told = 0.0

    def begin(self, count: int) -> None:
        self._counts["total"] += count

    def add(self, count: int, tokens: int) -> None:
        self._counts["done"] += count
        self._counts["prompt_tokens"] += tokens
        if time.monotonic() - self._told > 0.2 or self._counts["done"] == self._counts["total"]:
            self._told = time.monotonic()
            self._channel.send("progress", **self._counts)


def main() -> int:
    channel = Channel()
    end_with_parent()
    try:
        work_on(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), channel)
    except WorkerError as error:
        described = {"cause": error.cause, "message": error.message, "hint": error.hint}
        channel.send("failed", **described)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
