"""Tokens per second of engine `hf` on a GPU, and the share of the card that is reached.

    python -m benchmarks.gpu_engines                    Tiny, and a random Llama of 1B parameters
    python -m benchmarks.gpu_engines --models tiny

Reading is measured by scoring choices, against the card's own speed at multiplying large bfloat16
matrices; writing by greedy decoding, against its speed at copying memory, since each step reads
every weight once. Both speeds are measured in the same process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import record
from benchmarks.speed_lm_eval import REPOSITORY

TINY = REPOSITORY / "harness" / "tiny" / "base"
WORDS = "Sara has 4 bags with 6 balls each. She loses 7 of them. How many balls are left? "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="tiny,1b")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--prompt-words", type=int, default=40, help="repeats of one sentence")
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: there is nothing to measure")
    record("gpu_engines", measure(options))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "matrix_flops": multiply_speed(),
        "copy_bytes_per_s": copy_speed(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models.split(","):
            folder = TINY if name == "tiny" else random_llama(Path(scratch) / name)
            figures[name] = one_model(folder, options, figures)
    return figures


def multiply_speed(size: int = 8192, repeats: int = 20) -> float:
    matrix = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    return 2 * size**3 / timed(lambda: matrix @ matrix, repeats)


def copy_speed(numbers: int = 2**29, repeats: int = 20) -> float:
    """Bytes read and written, per second."""
    source = torch.empty(numbers, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 4 * numbers / timed(lambda: target.copy_(source), repeats)


def timed(work: Callable[[], object], repeats: int) -> float:
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def random_llama(folder: Path) -> Path:
    """About 1.0B parameters in bfloat16, with the tokenizer of Tiny."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one_model(folder: Path, options: argparse.Namespace, card: dict[str, Any]) -> dict[str, Any]:
    from harness.engines.base import HFSettings
    from harness.engines.hf import HFEngine
    from harness.types import ModelSpec, Request, SamplingParams

    text = WORDS * options.prompt_words
    sampling = SamplingParams(max_tokens=options.max_tokens)
    scored = [
        Request(id=f"c{n}", kind="choose", prompt=f"{n} {text}", choices=(" 1", " 2"))
        for n in range(options.prompts)
    ]
    written = [
        Request(id=f"g{n}", kind="generate", prompt=f"{n}", sampling=sampling)
        for n in range(options.prompts)
    ]
    engine = HFEngine(ModelSpec(name=folder.name, path=str(folder)), HFSettings(dtype="bfloat16"))
    engine.tokenize(scored + written)
    engine.load()
    list(engine.run(scored[:2] + written[:2]))
    before = engine.stats()
    reading = seconds(lambda: list(engine.run(scored)))
    middle = engine.stats()
    writing = seconds(lambda: list(engine.run(written)))
    after = engine.stats()
    numbers = sum(weight.numel() for weight in engine._tree.model.parameters())
    read = middle["forwarded_tokens"] - before["forwarded_tokens"]
    wrote = after["decoded_tokens"] - middle["decoded_tokens"]
    steps_per_s = wrote / after["batch_size"] / writing
    return {
        "parameters": numbers,
        "batch_size": after["batch_size"],
        "chunk_tokens": after["chunk_tokens"],
        "read_tokens_per_s": round(read / reading),
        "share_of_arithmetic": round(2 * numbers * read / reading / card["matrix_flops"], 4),
        "written_tokens_per_s": round(wrote / writing),
        "share_of_bandwidth": round(2 * numbers * steps_per_s / card["copy_bytes_per_s"], 4),
    }


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
