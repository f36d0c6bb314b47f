"""What a recipe says, in the words of transformers' `TrainingArguments`.

Everything that changes a number is written out, since the defaults of transformers and TRL differ
and change from release to release.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from harness.trainer import CHECKPOINTS
from harness.types import JSON, Optimizer, Recipe

LAUNCH = Path(__file__).resolve().parent / "launch"

COLLECTIVE_TIMEOUT_S = 1800


def training_arguments(recipe: Recipe, folder: Path) -> JSON:
    """Arguments for `TrainingArguments` and the configurations of TRL that derive from it.

    Make the configuration before the model is loaded: ZeRO-3 splits weights while they are read.
    """
    meet = recipe.launcher in ("zero2", "zero3") and not torch.cuda.is_available()
    if meet:
        meet_on_cpus()
    return {
        "accelerator_config": {"use_configured_state": meet},
        "output_dir": str(folder / CHECKPOINTS),
        "per_device_train_batch_size": recipe.micro_batch_size,
        "gradient_accumulation_steps": recipe.accumulation,
        "average_tokens_across_devices": True,
        "num_train_epochs": recipe.epochs or 1_000_000.0,
        "max_steps": -1 if recipe.max_steps is None else recipe.max_steps,
        "bf16": recipe.precision == "bf16",
        "fp16": recipe.precision == "fp16",
        "tf32": None,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "dataloader_num_workers": 0,
        "dataloader_drop_last": False,
        # With it accelerate would leave DeepSpeed out, which knows by DS_ACCELERATOR.
        "use_cpu": recipe.device == "cpu" and recipe.launcher not in ("zero2", "zero3"),
        "ddp_find_unused_parameters": False,
        "ddp_timeout": COLLECTIVE_TIMEOUT_S,
        **_optimizer(recipe.optimizer),
        **_logging(recipe),
        **_saving(recipe),
        **_sharding(recipe),
    }


def meet_on_cpus() -> None:
    """Have the processes of DeepSpeed find each other where there is no GPU.

    Left to itself, accelerate 1.15 knows no backend then and takes each process for the only one,
    and DeepSpeed spends a minute on compiling a sum over processes that only its inference uses.
    """
    if not torch.distributed.is_initialized():
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__ = {}
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")


def _optimizer(optimizer: Optimizer) -> JSON:
    return {
        # Not the fused kernel: DeepSpeed and the CPU do not have it.
        "optim": "adamw_torch",
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_epsilon": optimizer.eps,
        "max_grad_norm": optimizer.max_grad_norm,
        "warmup_steps": optimizer.warmup_ratio,  # below 1 it is a share of all steps
        # The schedule itself is ours (`optimizing.schedule`): transformers has no line that ends
        # above 0 under DeepSpeed.
        "lr_scheduler_type": "constant_with_warmup",
    }


def _logging(recipe: Recipe) -> JSON:
    return {
        "logging_strategy": "steps",
        "logging_steps": recipe.log_steps,
        "logging_first_step": True,
        # Or a loss that is not a number would be shown as the mean of the others.
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "no",
        "report_to": list(recipe.report_to) or "none",
        "run_name": f"{recipe.method}-{recipe.model}",
        "disable_tqdm": True,
    }


def _saving(recipe: Recipe) -> JSON:
    return {
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or 500,
        "save_total_limit": recipe.keep_checkpoints or None,
        "save_only_model": False,
        "restore_callback_states_from_checkpoint": False,
        "push_to_hub": False,
    }


def _sharding(recipe: Recipe) -> JSON:
    """The named configuration of DeepSpeed or FSDP, from trainers/launch/."""
    if recipe.launcher in ("zero2", "zero3"):
        return {"deepspeed": _deepspeed(recipe)}
    if recipe.launcher == "fsdp":
        config = _config("fsdp")
        config["activation_checkpointing"] = recipe.gradient_checkpointing
        # Its own form of gradient checkpointing; both at once would recompute twice.
        return {"fsdp": True, "fsdp_config": config, "gradient_checkpointing": False}
    return {}


def _deepspeed(recipe: Recipe) -> JSON:
    config = _config(recipe.launcher)
    config["bf16"] = {"enabled": recipe.precision == "bf16"}
    config["fp16"] = {"enabled": recipe.precision == "fp16", "initial_scale_power": 16}
    config["gradient_clipping"] = recipe.optimizer.max_grad_norm
    return config


def _config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((LAUNCH / f"{name}.json").read_text(encoding="utf-8"))
    return config
