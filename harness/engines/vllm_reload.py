"""Another checkpoint of the same shape in a started engine: weights are read into place, and then
proved against transformers on a few prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from harness.engines.base import StartAnewError
from harness.engines.loading import load_model
from harness.engines.trie import TOKEN_BYTES, pack, size, unpack
from harness.engines.vllm_asks import asks_for_tokens
from harness.engines.vllm_queue import Queue
from harness.types import ModelSpec

_PROMPTS, _TOKENS = 3, 24
# Largest mean difference, in nats per token, that rounding explains.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}


def probes(prompts: Sequence[bytes], vocabulary: int) -> list[bytes]:
    """A few prompts to compare on: the longest starts, or tokens drawn from all over the
    vocabulary where the prompts are too short to say anything."""
    heads = sorted({prompt[: _TOKENS * TOKEN_BYTES] for prompt in prompts}, key=lambda p: -len(p))
    chosen = [head for head in heads[:_PROMPTS] if size(head) > 1]
    digest = hashlib.sha256(b"probe").digest()
    return [*chosen, pack([int(byte) * vocabulary // 256 for byte in digest])]


def engine_logprobs(queue: Queue, prompts: Sequence[bytes]) -> list[float]:
    """log p of every token of the prompts but the first, as the engine computes them."""
    found: list[dict[int, float]] = [{} for _ in prompts]
    pairs = zip(prompts, found, strict=True)
    list(queue.run([ask for prompt, own in pairs for ask in asks_for_tokens(prompt, own)]))
    return [own[place] for own in found for place in sorted(own)]


@torch.inference_mode()
def transformers_logprobs(
    model: ModelSpec, config: Any, dtype: torch.dtype | None, prompts: Sequence[bytes]
) -> list[float]:
    """The same from transformers, on the CPU: the GPU's memory is the engine's."""
    loaded = load_model(model, config, dtype, torch.device("cpu"))
    found: list[float] = []
    for prompt in prompts:
        ids = torch.tensor([unpack(prompt)])
        logprobs = loaded(ids).logits[0, :-1].float().log_softmax(-1)
        found += logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return found


def _repack_shared(model: torch.nn.Module) -> None:
    """The CPU build multiplies by packed copies of weights. An output layer that shares the
    weights of the embedding is not in the checkpoint, so vLLM leaves its old copy in place."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if hasattr(module, "cpu_linear") and weight is not None and weight.numel():
            method: Any = module.quant_method
            method.process_weights_after_loading(module)


def reload(
    queue: Queue, engine: Any, model: ModelSpec, config: Any, dtype: str, prompts: Sequence[bytes]
) -> float:
    """Read the weights of `model` into the engine; the mean difference from transformers, in nats.

    Raises StartAnewError where the engine does not compute what transformers does afterwards.
    """
    before = engine_logprobs(queue, prompts[-1:])
    try:
        engine.collective_rpc("reload_weights", kwargs={"weights_path": model.path})
    except (ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError) as error:
        raise StartAnewError(f"the weights could not be read into place ({error})") from error
    if engine.vllm_config.parallel_config.world_size == 1:
        engine.apply_model(_repack_shared)
    if not engine.reset_prefix_cache():
        raise StartAnewError("the prefix cache could not be emptied")
    after = engine_logprobs(queue, prompts)
    if after[-len(before) :] == before:
        raise StartAnewError("the engine computes what it computed before")
    wanted = transformers_logprobs(model, config, getattr(torch, dtype), prompts)
    differences = [abs(a - b) for a, b in zip(after, wanted, strict=True)]
    mean = sum(differences) / len(differences)
    if not mean <= _TOLERANCE[dtype]:
        raise StartAnewError(
            f"log-probabilities differ from those of transformers by {mean:.4f} nats on average"
        )
    return mean
