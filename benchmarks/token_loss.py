"""What the divergence costs: step time and memory of ASFT beside SFT, and of both beside TRL.

    python -m benchmarks.token_loss [steps|memory] [--vocabulary 128000] [--rounds 8]

Random Llama models. steps: whole optimiser steps, in turns of one step each, so that a noisy
machine slows all alike; the median of the ratios of neighbouring steps counts. memory: the peak of
the loss alone, forward and backward, above what was held before, in a process for each.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import SFTConfig, SFTTrainer

from benchmarks.record import record
from tests.training import tiny_tokenizer
from trainers import reference
from trainers.losses import IGNORED
from trainers.token_head import Head, Reference, TokenLoss, token_loss
from trainers.token_trainer import TokenLossTrainer

LENGTH, BATCH = 256, 4
POSITIONS = 512
"""Positions of a memory measurement: their logits alone would be 250 MiB at 128,000 tokens."""
PROMPT = LENGTH // 4
ASFT = TokenLoss(weighting="probability", kl_weight=0.05)


def model(vocabulary: int, width: int, layers: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def lora(whole: Any) -> Any:
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(whole, config)


def examples(vocabulary: int) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(5, vocabulary, (256, LENGTH), generator=generator).tolist()
    return Dataset.from_list(
        [{"input_ids": row, "labels": [IGNORED] * PROMPT + row[PROMPT:]} for row in rows]
    )


def trainer(kind: str, whole: Any, data: Dataset, folder: str) -> Any:
    """A trainer that is ready to take steps: `trl`, `sft`, or `asft` with a reference."""
    config = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        optim="adamw_torch",
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    parts = {"model": whole, "args": config, "train_dataset": data}
    parts["processing_class"] = tiny_tokenizer()
    if kind == "trl":
        return SFTTrainer(**parts)
    if kind == "sft":
        return TokenLossTrainer(spec=TokenLoss(), **parts)
    start: Any = reference.AdaptersOff(peft=whole) if hasattr(whole, "peft_config") else None
    if start is None:
        start = reference.FrozenCopy(model(*SHAPE))
    return TokenLossTrainer(spec=ASFT, start=start, **parts)


SHAPE = (8192, 256, 6)
"""Vocabulary, width and layers for step times: heads weigh as they do in an 8B model."""


def stepper(kind: str, *, adapted: bool, folder: str) -> Callable[[], float]:
    """Seconds of one forward, backward and update, by the trainer's own methods."""
    whole = lora(model(*SHAPE)) if adapted else model(*SHAPE)
    ready = trainer(kind, whole, examples(SHAPE[0]), folder)
    ready.create_optimizer_and_scheduler(num_training_steps=1000)
    ready.current_gradient_accumulation_steps = 1
    batches = iter(ready.get_train_dataloader())

    def step() -> float:
        batch = next(batches)
        began = time.perf_counter()
        items = ready._get_num_items_in_batch([batch], torch.device("cpu"))
        ready.training_step(ready.model, batch, items)
        ready.optimizer.step()
        ready.optimizer.zero_grad()
        ready.log({"loss": 0.0})
        return time.perf_counter() - began

    step()
    return step


def step_times(rounds: int) -> dict[str, float]:
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, first, second, adapted in (
            ("our_sft_to_trl", "sft", "trl", False),
            ("asft_frozen_to_sft", "asft", "trl", False),
            ("asft_lora_to_sft_lora", "asft", "trl", True),
        ):
            both = [stepper(kind, adapted=adapted, folder=folder) for kind in (first, second)]
            pairs = [[step() for step in both] for _ in range(rounds)]
            ratios[name] = round(statistics.median(ours / other for ours, other in pairs), 3)
    return ratios


def loss_peak(kind: str, vocabulary: int) -> int:
    """Bytes at the peak of one loss and its gradient, above what was held before it."""
    from benchmarks.peak import peak_above

    width, positions = 512, POSITIONS
    weight = torch.randn(vocabulary, width, requires_grad=True)
    hidden = torch.randn(1, positions, width, requires_grad=True)
    labels = torch.randint(0, vocabulary, (positions,))
    if kind == "sft":
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction
        from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

        extra = ("entropy", "is_top1")
        arguments = (labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, extra)

        def compute() -> None:
            out = ChunkedLogProbFunction.apply(hidden[0], weight, None, *arguments)
            (-out[0].mean()).backward()
    else:
        other = Reference(
            hidden=torch.randn(positions, width), head=Head(weight=torch.randn(vocabulary, width))
        )
        shares = torch.full((positions,), 1 / positions)

        def compute() -> None:
            token_loss(hidden[0], Head(weight=weight), labels, shares, ASFT, other).loss.backward()

    return peak_above(compute)


def memory(vocabulary: int) -> dict[str, float]:
    peaks = {}
    for kind in ("sft", "asft"):
        command = [sys.executable, "-m", "benchmarks.token_loss", "peak", "--kind", kind]
        command += ["--vocabulary", str(vocabulary)]
        peaks[kind] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    whole_logits = 4 * POSITIONS * vocabulary
    return {
        "vocabulary": vocabulary,
        "sft_mib": peaks["sft"] >> 20,
        "asft_mib": peaks["asft"] >> 20,
        "one_logit_tensor_mib": whole_logits >> 20,
        "asft_to_sft": round(peaks["asft"] / peaks["sft"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("steps", "memory", "peak"))
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--kind", default="sft")
    options = parser.parse_args()
    if options.part == "peak":
        print(loss_peak(options.kind, options.vocabulary))
    elif options.part == "memory":
        record("token_loss_memory", memory(options.vocabulary))
    else:
        shape = dict(zip(("vocabulary", "width", "layers"), SHAPE, strict=True))
        record("token_loss_steps", {**shape, **step_times(options.rounds)})


if __name__ == "__main__":
    main()
