"""The losses of supervised and preference training as functions of tensors, nothing else.

Everywhere `labels[b, t]` is the token that `logits[b, t]` predict (shifted already), and -100
marks positions that do not count. Log-probabilities are in nats and computed in float32 or, where
the input has it, float64. `trainers.token_head` computes the same from hidden states in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100

Weighting = Literal["one", "probability"]
"""What multiplies -log p(label): 1 (SFT) or the detached p(label) (DFT, arXiv 2508.05629)."""

Direction = Literal["forward", "reverse"]
"""forward: KL(reference || policy), as ASFT has it; reverse: KL(policy || reference)."""

Reduction = Literal["token_global", "token_micro", "sequence", "sequence_sum"]
"""Over what the losses of tokens are averaged.

token_global: all tokens of the optimiser step, whatever process and micro-batch they came in.
token_micro: the tokens of each micro-batch on each process, then the micro-batches, as the
published ASFT code does; tokens beside few others then count more.
sequence: the tokens of each sequence, then the sequences of the optimiser step.
sequence_sum: the sequences of the optimiser step, of each the sum over its tokens.
"""


def token_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) of each position, 0 where it does not count: shape of labels.

    logits: (..., vocab). labels: (...).
    """
    counted = labels != IGNORED
    chosen = _log_softmax(logits).gather(-1, labels.where(counted, 0).unsqueeze(-1)).squeeze(-1)
    return chosen.where(counted, 0.0)


def sequence_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of log p(label) over each sequence: shape (batch,).

    logits: (batch, seq, vocab). labels: (batch, seq).
    """
    return token_logprobs(logits, labels).sum(-1)


def token_kl(logits: Tensor, reference: Tensor, direction: Direction = "forward") -> Tensor:
    """Divergence of the two next-token distributions over the whole vocabulary: shape (...).

    logits, reference: (..., vocab). Not an estimate from the sampled token (k1, k3).
    """
    policy, start = _log_softmax(logits), _log_softmax(reference)
    if direction == "reverse":
        policy, start = start, policy
    return (start.exp() * (start - policy)).sum(-1)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of the next-token distributions: shape (...), without a gradient.

    logits: (..., vocab).
    """
    with torch.no_grad():
        logprobs = _log_softmax(logits)
        return -(logprobs.exp() * logprobs).sum(-1)


def token_losses(
    logits: Tensor,
    labels: Tensor,
    reference: Tensor | None = None,
    *,
    weighting: Weighting = "one",
    kl_weight: float = 0.0,
    direction: Direction = "forward",
) -> Tensor:
    """Loss of each position, 0 where it does not count: shape of labels.

    `weight * -log p + kl_weight * KL`: SFT, DFT, SFT with a divergence and ASFT
    (zhuchichi56/ASFT) by weighting and kl_weight. logits, reference: (..., vocab).
    """
    logprobs = token_logprobs(logits, labels)
    # Detached: with the gradient of p as well, confident tokens would be pushed away from.
    weight = logprobs.exp().detach() if weighting == "probability" else 1.0
    losses = -weight * logprobs
    if reference is not None:
        divergence = token_kl(logits, reference, direction)
        losses = losses + kl_weight * divergence.where(labels != IGNORED, 0.0)
    return losses


def documents(position_ids: Tensor) -> Tensor:
    """Number of the sequence that each position of a packed batch belongs to: (batch, seq).

    position_ids: (batch, seq), starting from 0 again in each sequence.
    """
    return (position_ids == 0).flatten().cumsum(0).view_as(position_ids) - 1


def rows(labels: Tensor) -> Tensor:
    """As `documents`, where each row is one sequence."""
    return torch.arange(labels.shape[0], device=labels.device)[:, None].expand_as(labels)


def token_shares(labels: Tensor, sequences: Tensor, reduction: Reduction) -> Tensor:
    """What the loss of each position is multiplied by before all are added: shape of labels.

    Their sum, except for sequence_sum, is `count_items`: what the sum is divided by in the end.
    labels: (batch, seq). sequences: (batch, seq), from `documents` or `rows`.
    """
    counted = (labels != IGNORED).to(torch.float32)
    if reduction == "token_micro":
        return counted / counted.sum().clamp(min=1)
    if reduction == "sequence":
        return counted / _lengths(counted, sequences)[sequences].clamp(min=1)
    return counted


def count_items(labels: Tensor, sequences: Tensor, reduction: Reduction) -> Tensor:
    """How many things a micro-batch adds to what its reduction averages over: a scalar."""
    counted = labels != IGNORED
    if reduction == "token_micro":
        return torch.ones((), device=labels.device)
    if reduction == "token_global":
        return counted.sum().float()
    return (_lengths(counted.float(), sequences) > 0).sum().float()


def _lengths(counted: Tensor, sequences: Tensor) -> Tensor:
    lengths = counted.new_zeros(int(sequences.max()) + 1)
    return lengths.index_add_(0, sequences.flatten(), counted.flatten())


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Of each pair: its loss, and the rewards `beta * (log policy - log reference)`; (batch,)."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor

    @property
    def margins(self) -> Tensor:
        return self.chosen_rewards - self.rejected_rewards


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Preferences:
    """Direct preference optimisation (arXiv 2305.18290) of log-probabilities, each (batch,).

    Sums over the answer's tokens give `dpo`; means, of policy and reference alike, give the
    length-normalised `dpo_norm` of Tulu 3 (open-instruct, dpo_utils.py). label_smoothing: the
    chance that a pair is labelled the wrong way round (conservative DPO).
    """
    chosen_rewards = beta * (chosen - reference_chosen)
    rejected_rewards = beta * (rejected - reference_rejected)
    margins = chosen_rewards - rejected_rewards
    losses = -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(
        -margins
    )
    return Preferences(
        losses=losses,
        chosen_rewards=chosen_rewards.detach(),
        rejected_rewards=rejected_rewards.detach(),
    )


def _log_softmax(logits: Tensor) -> Tensor:
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.log_softmax(-1)
