"""The smallest trainings on the embedded model, in the test's own process and in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from trl import SFTConfig

from harness.shipped import shipped
from harness.trainer import RECIPE, STEPS, TRAIN, read_recipe
from harness.types import JSON, Optimizer, Recipe, to_json
from tasks.arithmetic_problems import problems

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = shipped("harness/tiny/base")
FOLDER_DEFAULTS: JSON = {
    "device": "cpu",
    "precision": "fp32",
    "global_batch_size": 8,
    "micro_batch_size": 8,
    "max_length": 256,
    "seed": 3,
}


def tiny(**options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        TINY, dtype=torch.float32, attn_implementation="sdpa", **options
    )


def tiny_lora() -> Any:
    """Tiny with adapters on all layers that do something already."""
    import peft

    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(tiny(), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return adapted


def tiny_tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(TINY)


def write_billion(folder: Path) -> None:
    """A random model of the shape of Llama 3.2 1B in bf16, with the tokenizer of Tiny."""
    config = transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


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


def sft_config(folder: Path, *, kind: Any = SFTConfig, **changes: Any) -> Any:
    """One step of plain gradient descent with rate 1: a weight moves by minus its gradient."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
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
    if kind is SFTConfig:
        settings["dataset_kwargs"] = {"skip_prepare_dataset": True}
    return kind(**(settings | changes))


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logged(trainer: Any, measure: str) -> list[float]:
    return [entry[measure] for entry in trainer.state.log_history if measure in entry]


def training_folder(folder: Path, method: str, examples: Iterable[JSON], **changes: Any) -> Path:
    """A run folder as the command line leaves it for a trainer: recipe.json, train.jsonl."""
    folder.mkdir(parents=True)
    optimizer = changes.pop("optimizer", {"learning_rate": 1e-3, "schedule": "constant"})
    recipe = Recipe(
        method=method,
        model="Tiny/base",
        model_path=changes.pop("model_path", str(TINY)),
        optimizer=Optimizer(**optimizer),
        **{**FOLDER_DEFAULTS, **changes},
    )
    (folder / RECIPE).write_text(json.dumps(to_json(recipe)), encoding="utf-8")
    (folder / TRAIN).write_text("".join(json.dumps(one) + "\n" for one in examples))
    return folder


def train_in_processes(*folders: Path, processes: int = 1) -> list[dict[str, list[float]]]:
    """Train in each folder, one after the other, in as many processes; what steps.jsonl holds.

    Raises AssertionError with the end of the log where a training failed.
    """
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}"]
    command += ["-m", "tests.several_trainings", *map(str, folders)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if all(read_recipe(folder).device == "cpu" for folder in folders):
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("CUDA_HOME", None)
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [measures(folder) for folder in folders]


def measures(folder: Path) -> dict[str, list[float]]:
    """The values of each measure, in the order of steps."""
    found: dict[str, list[float]] = {}
    for line in (folder / STEPS).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        found.setdefault(entry["metric"], []).append(entry["value"])
    return found


def word_problems(count: int, seed: int = 1) -> list[JSON]:
    return [
        {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"}
        for row in problems(seed, count)
    ]


def rightly_and_wrongly(count: int, seed: int = 1) -> list[JSON]:
    """Word problems with their answers, and with answers that end in another number."""
    return [
        {
            "prompt": example["prompt"],
            "chosen": example["completion"],
            "rejected": f"{example['completion'].rpartition(' ')[0]} {number + 100}",
        }
        for number, example in enumerate(word_problems(count, seed))
    ]
