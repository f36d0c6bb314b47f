"""TRL's SFTTrainer with the loss of each token as SFT, DFT and ASFT have it.

What a loss is divided by is explicit. Every process counts the items of its reduction (tokens,
micro-batches or sequences) over the micro-batches of an optimiser step; the counts are added over
processes, and each micro-batch contributes its own sum over that total. So the gradient depends
neither on how a batch is cut into micro-batches nor on how it is spread over processes, except for
`token_micro`, whose point is that it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer

from harness.errors import UsageError
from trainers import losses
from trainers.losses import Reduction
from trainers.reference import StartModel
from trainers.sums import Sums
from trainers.token_head import TokenLoss
from trainers.token_model import attach_token_loss, counted_positions


class TokenLossTrainer(SFTTrainer):  # type: ignore[misc]
    """spec: the loss of a token. start: the reference of its divergence.

    Raises UsageError where the divergence has a weight and there is nothing to diverge from.
    """

    def __init__(
        self,
        *,
        spec: TokenLoss,
        reduction: Reduction = "token_global",
        start: StartModel | None = None,
        **options: Any,
    ) -> None:
        if spec.kl_weight and start is None:
            raise UsageError(
                "a divergence with a weight needs a reference, and there is none",
                "set `reference: frozen`, or `adapters_off` under LoRA",
            )
        super().__init__(**options)
        if self.aux_loss_enabled:
            raise UsageError(
                "the balancing loss of a mixture of experts is not part of this loss",
                "train this model with `method: sft`",
            )
        self.spec, self.reduction, self.start = spec, reduction, start
        attach_token_loss(_unadapted(self.model))
        # `compute_loss` divides by what `_get_num_items_in_batch` counted; nobody else shall.
        self.model_accepts_loss_kwargs = True
        self._sums = {"train": Sums(), "eval": Sums()}

    def _get_num_items_in_batch(
        self, batch_samples: Sequence[Mapping[str, Tensor]], device: torch.device
    ) -> Tensor:
        """Items of the reduction in one optimiser step, over all processes: a scalar."""
        items = sum(_items(batch, self.reduction) for batch in batch_samples)
        total: Tensor = self.accelerator.reduce(torch.as_tensor(items, device=device), "sum")
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        labels = inputs["labels"]
        shares = losses.token_shares(_counting(labels), _sequences(inputs), self.reduction)
        if num_items_in_batch is None:  # evaluation: each batch for itself
            shares = shares / _items(inputs, self.reduction).clamp(min=1)
        else:
            # DDP and DeepSpeed average gradients over processes; the total is of all of them.
            shares = shares * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)
        reference = self._reference(model, inputs)
        output = model(**inputs, shares=shares, token_loss=self.spec, reference=reference)
        self._measure(output, inputs)
        return (output.loss, output) if return_outputs else output.loss

    def _reference(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.start is None:
            return None
        with self.accelerator.autocast():
            return self.start.reference(model, inputs)

    def _measure(self, output: Any, inputs: Mapping[str, Any]) -> None:
        self._sums["train" if self.model.training else "eval"].add(
            kl=output.kl,
            entropy=output.entropy,
            correct=output.correct,
            count=counted_positions(inputs["labels"]).sum(),
            seen=_length(inputs),
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        if sums := self._sums[mode].take(self.accelerator):
            self._total_train_tokens += int(sums["seen"]) if mode == "train" else 0
            count = max(sums["count"], 1)
            means = {"entropy": sums["entropy"], "mean_token_accuracy": sums["correct"]}
            means |= {"kl": sums["kl"]} if self.start is not None else {}
            for name, total in means.items():
                self._metrics[mode][name] = [total / count]
            self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)


def _unadapted(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _counting(labels: Tensor) -> Tensor:
    """Labels without the first of each row, which nothing predicts."""
    counting = labels.clone()
    counting[:, 0] = losses.IGNORED
    return counting


def _sequences(batch: Mapping[str, Any]) -> Tensor:
    if "position_ids" in batch:
        return losses.documents(batch["position_ids"])
    return losses.rows(batch["labels"])


def _items(batch: Mapping[str, Any], reduction: Reduction) -> Tensor:
    return losses.count_items(_counting(batch["labels"]), _sequences(batch), reduction)


def _length(batch: Mapping[str, Any]) -> Tensor:
    if "attention_mask" in batch:
        total: Tensor = batch["attention_mask"].sum()
        return total
    return torch.tensor(batch["position_ids"].numel(), device=batch["position_ids"].device)
