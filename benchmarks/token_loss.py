"""What the divergence costs: step time and memory of ASFT beside SFT, and of both beside TRL.

    python -m benchmarks.token_loss [steps|memory] [--vocabulary 128000] [--rounds 8]

Random Llama models. steps: whole optimiser steps with what our trainers log, in turns of one step
each, so that a noisy machine slows all alike; the median of the ratios of neighbouring steps
counts. Methods run as `bench train` runs them: sft is TRL's trainer with our callback, trl is the
same trainer called directly. memory: the peak of the loss alone, forward and backward, above what
was held before, in a process for each.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.record import record
from tests.training import tiny_tokenizer
from trainers import reference
from trainers.losses import IGNORED
from trainers.token_head import Head, Reference, TokenLoss, token_loss
from trainers.token_model import head_of
from trainers.token_trainer import TokenLossTrainer
from trainers.watching import Watcher

LENGTH, BATCH = 256, 2
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


def trainer(kind: str, whole: Any, data: Dataset, folder: str, *, checkpointing: bool) -> Any:
    """A trainer that is ready to take steps: `trl` alone, `sft`, `tokens` (sft with our loss, as
    for other reductions than TRL's), `asft` with a second forward, or `cached` with what one wrote
    down."""
    config = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
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
    parts: dict[str, Any] = {"model": whole, "args": config, "train_dataset": data}
    parts["processing_class"] = tiny_tokenizer()
    if kind == "trl":
        return SFTTrainer(**parts)
    parts["callbacks"] = [Watcher(Path(folder))]
    if kind == "sft":
        return SFTTrainer(**parts)
    if kind == "tokens":
        return TokenLossTrainer(spec=TokenLoss(), **parts)
    start: Any = reference.FrozenCopy(model(*SHAPE))
    if kind == "cached":
        start = cached(Path(folder) / "states", start, data)
    elif hasattr(whole, "peft_config"):
        start = reference.AdaptersOff(peft=whole)
    return TokenLossTrainer(spec=ASFT, start=start, **parts)


def cached(folder: Path, copy: reference.FrozenCopy, data: Dataset) -> reference.CachedStates:
    """As from the second epoch on."""
    batches = (as_tensors(data[i : i + 16]) for i in range(0, len(data), 16))
    reference.fill_cache(folder, copy, batches)
    return reference.CachedStates(folder, head_of(copy.model))


def as_tensors(rows: dict[str, Any]) -> dict[str, torch.Tensor]:
    batch = {name: torch.tensor(values) for name, values in rows.items()}
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


SHAPE = (8192, 512, 8)
"""Vocabulary, width and layers for step times. The head is 14 % of the weights: between an 8B model
with 128,000 tokens (7 %) and one of 1B (21 %)."""


def stepper(
    kind: str, folder: str, *, adapted: bool = False, checkpointing: bool = False
) -> Callable[[], float]:
    """Seconds of one forward, backward and update, by the trainer's own methods."""
    whole = lora(model(*SHAPE)) if adapted else model(*SHAPE)
    ready = trainer(kind, whole, examples(SHAPE[0]), folder, checkpointing=checkpointing)
    ready.create_optimizer_and_scheduler(num_training_steps=1000)
    ready.current_gradient_accumulation_steps = 1
    ready.callback_handler.optimizer = ready.optimizer
    ready.callback_handler.lr_scheduler = ready.lr_scheduler
    ready.remove_callback(PrinterCallback)
    batches = iter(ready.get_train_dataloader())

    def step() -> float:
        batch = next(batches)
        told = (ready.args, ready.state, ready.control)
        began = time.perf_counter()
        ready.callback_handler.on_step_begin(*told)
        items = ready._get_num_items_in_batch([batch], torch.device("cpu"))
        ready.training_step(ready.model, batch, items)
        ready.optimizer.step()
        ready.callback_handler.on_optimizer_step(*told)
        ready.lr_scheduler.step()
        ready.optimizer.zero_grad()
        ready.log({"loss": 0.0})
        return time.perf_counter() - began

    step()
    return step


def step_times(rounds: int) -> dict[str, float]:
    lora: dict[str, Any] = {"adapted": True}
    pairs = {
        "sft_to_trl": ("sft", "trl", {}),
        "our_loss_to_trl": ("tokens", "trl", {}),
        "asft_frozen": ("asft", "sft", {}),
        "asft_frozen_checkpointing": ("asft", "sft", {"checkpointing": True}),
        "asft_lora": ("asft", "sft", lora),
        "asft_lora_checkpointing": ("asft", "sft", {**lora, "checkpointing": True}),
        "asft_lora_cached": ("cached", "sft", lora),
    }
    ratios = {}
    for name, (first, second, how) in pairs.items():
        with tempfile.TemporaryDirectory() as folder:
            ours, other = stepper(first, folder, **how), stepper(second, folder, **how)
            # What differs by hundredths needs more turns than what differs by tenths.
            turns = 4 * rounds if first == "sft" else rounds
            times = [in_turn(ours, other, swapped=bool(turn % 2)) for turn in range(turns)]
            ratios[name] = round(statistics.median(a / b for a, b in times), 3)
    return ratios


def in_turn(
    ours: Callable[[], float], other: Callable[[], float], *, swapped: bool
) -> tuple[float, float]:
    """Seconds of a step of both; who goes first finds another cache than who goes second."""
    if swapped:
        seconds = other()
        return ours(), seconds
    return ours(), other()


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
