"""TRL's DPOTrainer with the loss, the divisor and the measures written out.

TRL's own losses leave label smoothing out of the plain loss, average micro-batches however many
pairs they hold, and report the rewards of length-normalised training as sums. How the reference is
sharded, or switched on and off, is TRL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer

from harness.errors import UsageError
from trainers import losses
from trainers.preferences import COLUMNS
from trainers.sums import Sums
from trainers.token_model import counted_positions


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """normalise: means over the tokens of an answer in place of sums, of policy and reference."""

    def __init__(self, *, normalise: bool, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.normalise, self.smoothing = normalise, label_smoothing
        if self.aux_loss_enabled:
            raise UsageError("the balancing loss of a mixture of experts is not part of this loss")
        if "ref" in getattr(self.model, "peft_config", {}):
            # TRL's copy of the adapter as it starts, which does nothing yet: the reference is the
            # model without adapters, and the copy would be saved with the model.
            self.model.delete_adapter("ref")
            self.model.set_adapter("default")
        # `compute_loss` divides by what `_get_num_items_in_batch` counted; nobody else shall.
        self.model_accepts_loss_kwargs = True
        self._sums = {"train": Sums(), "eval": Sums()}

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # tokens and labels already

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(COLUMNS)

    def _get_num_items_in_batch(
        self, batch_samples: Sequence[Mapping[str, Tensor]], device: torch.device
    ) -> Tensor:
        """Pairs of one optimiser step, over all processes: a scalar."""
        pairs = sum(len(batch["input_ids"]) // 2 for batch in batch_samples)
        total: Tensor = self.accelerator.reduce(torch.tensor(pairs, device=device), "sum")
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        labels = inputs["labels"]
        tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        output = model(**tokens, labels=labels, use_cache=False, fused_lm_head=True)
        policy = output.log_probs.sum(1)
        reference = torch.cat(
            self.compute_ref_log_probs(
                self.ref_model or model,
                {**tokens, "completion_mask": (labels != losses.IGNORED).long()},
            )
        )
        if self.normalise:
            lengths = counted_positions(labels).sum(1)
            policy, reference = policy / lengths, reference / lengths
        pairs = losses.dpo(
            *policy.chunk(2),
            *reference.chunk(2),
            beta=self.beta,
            label_smoothing=self.smoothing,
        )
        self._measure(pairs, policy, output, inputs)
        # DDP and DeepSpeed average gradients over processes; the total is of all of them.
        total = len(pairs.losses) if num_items_in_batch is None else num_items_in_batch
        processes = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = pairs.losses.sum() * processes / total
        return (loss, output) if return_outputs else loss

    def _measure(
        self, pairs: losses.Preferences, policy: Tensor, output: Any, inputs: Mapping[str, Any]
    ) -> None:
        chosen, rejected = policy.chunk(2)
        self._sums["train" if self.model.training else "eval"].add(
            pairs=torch.tensor(len(chosen), device=policy.device),
            chosen=pairs.chosen_rewards.sum(),
            rejected=pairs.rejected_rewards.sum(),
            right=(pairs.margins > 0).sum(),
            logps_chosen=chosen.sum(),
            logps_rejected=rejected.sum(),
            entropy=output.entropy.sum(),
            correct=output.is_top1.chunk(2)[0].sum(),
            chosen_count=counted_positions(inputs["labels"]).chunk(2)[0].sum(),
            count=counted_positions(inputs["labels"]).sum(),
            seen=inputs["attention_mask"].sum(),
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        if sums := self._sums[mode].take(self.accelerator):
            self._total_train_tokens += int(sums["seen"]) if mode == "train" else 0
            for name, value in _means(sums).items():
                self._metrics[mode][name] = [value]
            self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    """Of pairs, under TRL's names, and of tokens: entropy of all, accuracy of the chosen."""
    pairs = sums["pairs"]
    return {
        "rewards/chosen": sums["chosen"] / pairs,
        "rewards/rejected": sums["rejected"] / pairs,
        "rewards/margins": (sums["chosen"] - sums["rejected"]) / pairs,
        "rewards/accuracies": sums["right"] / pairs,
        "logps/chosen": sums["logps_chosen"] / pairs,
        "logps/rejected": sums["logps_rejected"] / pairs,
        "entropy": sums["entropy"] / max(sums["count"], 1),
        "mean_token_accuracy": sums["correct"] / max(sums["chosen_count"], 1),
    }
