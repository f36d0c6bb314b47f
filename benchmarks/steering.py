"""What taking activations costs beside bare forward passes, and what memory a sweep takes.

    python -m benchmarks.steering [--rounds 7]

Random Llama models and prompts of many lengths. time: pooled activations of 1,400
prompts against the model alone on the same batches, in turns; the median of the ratios of
neighbouring turns. passes: layers computed by five strengths of the last 5 of 32 layers, as
multiples of one pass. memory: highest above what was held before, for 1,400 and for 14,000
prompts: of the worker that takes them, of the indices of one point, and of reading all points.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.peak import peak_above
from benchmarks.record import record
from harness import activation_file
from harness.engines.activations import Activations, Wanted
from harness.engines.layers import backbone
from harness.engines.steering import Steering
from harness.engines.trie import pack, size
from harness.geometry import resampling
from harness.geometry.indices import indices
from harness.geometry.reduction import reduction
from harness.steering.asking import layer_mean
from harness.types import ModelSpec

FEW, MANY = 1_400, 14_000
VOCABULARY = 1_000
POINTS = 31
"""Of a sweep with five λ and 19 random directions."""
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SPEC = ModelSpec(name="random", path="random")


def model(layers: int, width: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


def prompts(count: int) -> list[bytes]:
    generator = random.Random(0)
    lengths = [generator.randint(6, 40) for _ in range(count)]
    return [pack([generator.randrange(2, VOCABULARY) for _ in range(n)]) for n in lengths]


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def time_ratio(rounds: int) -> dict[str, Any]:
    own, texts = model(8, 192), prompts(FEW)
    last = Wanted(layers=(7,), pooling="mean")

    def take() -> None:
        for _ in Activations(own, SPEC).take(texts, last):
            pass

    bare_pass = batches_of(own, texts)

    @torch.inference_mode()
    def bare() -> None:
        for ids, mask in bare_pass:
            backbone(own)(input_ids=ids, attention_mask=mask, use_cache=False)

    bare(), take()
    ratios = [seconds(take) / seconds(bare) for _ in range(rounds)]
    return {"prompts": FEW, "ratio": round(statistics.median(ratios), 3), "target": 1.2}


def batches_of(own: Any, texts: Sequence[bytes]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The very batches that `take` makes of the texts."""
    taking = Activations(own, SPEC)
    left, found = sorted(texts, key=size, reverse=True), []
    while left:
        rows = taking._batch(range(len(left)), left)
        found.append(taking._padded([left[row] for row in rows]))
        left = left[len(rows) :]
    return found


def passes() -> dict[str, Any]:
    taking = Activations(model(32, 64), SPEC)
    vectors = {layer: torch.randn(64) for layer in range(27, 32)}
    sweep = [Steering(vectors=vectors, strength=strength) for strength in LAMBDAS]
    for _ in taking.take(prompts(64), Wanted(layers=(31,), pooling="mean"), sweep):
        pass
    found = taking.layer_forwards / taking.batches / 32
    return {"layers": 32, "steered": 5, "lambdas": 5, "passes": round(found, 3), "target": 2.2}


def memory(count: int, folder: Path) -> dict[str, float]:
    """MB at the highest. one_point: what the pooled vectors of one point weigh."""
    width, texts = 128, prompts(count)
    taking = Activations(model(2, width), SPEC)
    path = folder / f"{count}.bin"

    def take() -> None:
        for one in taking.take(texts, Wanted(layers=(1,), pooling="mean")):
            activation_file.append(path, one.rows, one.vectors.numpy())

    safe = np.arange(count) % 2 == 0

    def read() -> Any:
        return layer_mean(activation_file.read(path, count, 1, width))

    def reduced() -> list[Any]:
        reduce = reduction("pca", read())
        return [reduce(read()) for _ in range(POINTS)]

    def measure() -> None:
        indices(one, safe)
        resampling.silhouette_means(one, safe, resampling.counts([""] * count, safe))

    found = {"worker": peak_above(take), "read": peak_above(lambda: reduced())}
    one = reduction("pca", read())(read())
    found["indices"] = peak_above(measure)
    return {name: round(value / 1e6, 1) for name, value in found.items()} | {
        "one_point": round(count * width * 8 / 1e6, 1),
        "all_points_reduced": round(POINTS * one.nbytes / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory(200, Path(folder))  # what is loaded once counts for neither
        used = {str(count): memory(count, Path(folder)) for count in (FEW, MANY)}
    record("steering", {"time": time_ratio(options.rounds), "passes": passes(), "memory": used})


if __name__ == "__main__":
    main()
