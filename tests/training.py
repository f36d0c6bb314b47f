"""The smallest trainings on the embedded model, in the test's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from trl import SFTConfig

from harness.shipped import shipped
from tasks.arithmetic_problems import problems

TINY = shipped("harness/tiny/base")


def tiny(**options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        TINY, dtype=torch.float32, attn_implementation="sdpa", **options
    )


def tiny_tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(TINY)


def demonstrations(count: int, seed: int = 1) -> Any:
    """Word problems with their answers: input_ids, and labels that leave the question out."""
    tokenizer = tiny_tokenizer()
    rows = []
    for row in problems(seed, count):
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        answer = tokenizer(f" {row['answer']}</s>", add_special_tokens=False)["input_ids"]
        labels = [-100] * len(prompt) + answer
        rows.append({"input_ids": prompt + answer, "labels": labels})
    return datasets.Dataset.from_list(rows)


def sft_config(folder: Path, **changes: Any) -> Any:
    """One step of plain gradient descent with rate 1: a weight moves by minus its gradient."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": 1,
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "seed": 7,
        "disable_tqdm": True,
    }
    return SFTConfig(**(settings | changes))


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logged(trainer: Any, measure: str) -> list[float]:
    return [entry[measure] for entry in trainer.state.log_history if measure in entry]
