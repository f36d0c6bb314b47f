"""AdamW and its learning rate, as a recipe writes them out, for loops that are not TRL's."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from harness.types import Optimizer


def adamw(model: nn.Module, optimizer: Optimizer) -> AdamW:
    """Over the parameters that learn; biases and norms, which have one dimension, do not decay."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in learning if (parameter.ndim > 1) is matrix],
            "weight_decay": optimizer.weight_decay if matrix else 0.0,
        }
        for matrix in (True, False)
    ]
    return AdamW(
        groups,
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
    )


def schedule(adamw: Any, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Its learning rate at each of the steps: warmed up, then constant, or falling on a line or a
    cosine to `min_lr_ratio` of itself."""
    warmup = math.ceil(optimizer.warmup_ratio * steps)
    return LambdaLR(adamw, lambda step: _factor(step, steps, warmup, optimizer))


def _factor(step: int, steps: int, warmup: int, optimizer: Optimizer) -> float:
    """The share of the learning rate at a step, counted from 0, as transformers has it."""
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if optimizer.schedule == "constant":
        return 1.0
    left = 1 - done if optimizer.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return optimizer.min_lr_ratio + (1 - optimizer.min_lr_ratio) * max(0.0, left)
