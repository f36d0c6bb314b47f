"""The language-model head and the loss behind it as one step that never holds whole logits.

TRL's fused head computes log-probabilities from hidden states in tiles. The divergence from a
reference needs both distributions over the whole vocabulary, so here a few positions at a time are
projected by both heads, in float32, and the gradient with respect to these logits is taken at
once: what the loss of a position is multiplied by is known before. The policy's projection is not
repeated in the backward pass, which pays for the reference's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.losses import Direction, Weighting

CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
"""Size of one block of logits, of which three exist at a time. A GPU needs more rows to be busy."""

TILE = 32768
"""Columns of a head that are turned into float32 at a time, where the device cannot multiply half
precision into single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A projection to logits, `softcap * tanh(scale * (weight h + bias) / softcap)` where a
    softcap is given. weight: (vocab, dim). bias: (vocab)."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """The loss of a token: `weight * -log p + kl_weight * KL`, as `losses.token_losses`."""

    weighting: Weighting = "one"
    kl_weight: float = 0.0
    direction: Direction = "forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the reference makes of the same positions: hidden states (positions, dim) and its
    head, None where it is the policy's own, frozen."""

    hidden: Tensor
    head: Head | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Scalars, added up over positions: the loss with a gradient, the others without one."""

    loss: Tensor
    kl: Tensor
    entropy: Tensor
    correct: Tensor


def token_loss(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    shares: Tensor,
    spec: TokenLoss,
    reference: Reference | None = None,
) -> LossSums:
    """The losses of tokens, each times its share, added up; and the sums of what is logged.

    hidden: (positions, dim). labels: (positions), all of them counting. shares: (positions).
    The gradient reaches hidden, the head's weight and bias; none reaches the reference.
    """
    job = _Job(spec, head, reference, labels, shares, torch.is_grad_enabled())
    apply: Any = _ChunkedTokenLoss.apply
    loss, kl, entropy, correct = apply(hidden, head.weight, head.bias, job)
    return LossSums(loss=loss, kl=kl, entropy=entropy, correct=correct)


@dataclass(frozen=True, slots=True)
class _Job:
    spec: TokenLoss
    head: Head
    reference: Reference | None
    labels: Tensor
    shares: Tensor
    gradients: bool


class _ChunkedTokenLoss(torch.autograd.Function):
    """Forward takes the gradients too, as Liger's fused losses do; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, ...]:
        needed = ctx.needs_input_grad[:3] if job.gradients else (False,) * 3
        gradients = _Gradients(needed, hidden, weight, bias)
        sums = torch.zeros(4, device=hidden.device)
        dtype = _compute_dtype(hidden)
        for part in _chunks(hidden, weight.shape[0]):
            states = hidden[part].to(dtype)
            chunk = _Chunk(part, states, job, dtype)
            sums += chunk.sums
            if any(needed):
                gradients.add(part, chunk.logit_gradient().to(dtype), states)
        ctx.gradients = gradients
        # Copies, for what carries a gradient must not share storage with what does not.
        loss, *logged = (each.clone() for each in sums)
        ctx.mark_non_differentiable(*logged)
        return loss, *logged

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return *ctx.gradients.scaled(slope), None


class _Chunk:
    """Some positions of a job, from their logits to the gradient with respect to these."""

    def __init__(self, part: slice, states: Tensor, job: _Job, dtype: torch.dtype) -> None:
        self.spec, self.head = job.spec, job.head
        self.labels, self.shares = job.labels[part, None], job.shares[part].float()
        logits = _logits(states, job.head)
        self.kl = torch.zeros_like(self.shares)
        self.first_logit = logits[:, :1].clone()
        self.logprobs = logits.log_softmax(-1)
        del logits
        self.start = None if job.reference is None else self._start(job.reference, part, dtype)
        self.probabilities = self.logprobs.exp()
        if self.start is not None and self.spec.direction == "reverse":
            surprise = _dot(self.probabilities, self.logprobs)
            self.kl = surprise - _dot(self.probabilities, self.start)

    def _start(self, reference: Reference, part: slice, dtype: torch.dtype) -> Tensor:
        """Of the reference what the direction needs, one block: q forward, log q in reverse."""
        hidden = reference.hidden[part].to(dtype)
        start = _logits(hidden, reference.head or self.head).log_softmax(-1)
        if self.spec.direction == "reverse":
            return start
        probabilities = start.exp()
        self.kl = _dot(probabilities, start) - _dot(probabilities, self.logprobs)
        return probabilities

    @property
    def weights(self) -> Tensor:
        """What -log p of each position is multiplied by: (rows)."""
        if self.spec.weighting == "one":
            return self.shares
        return self.shares * self.logprobs.gather(-1, self.labels).squeeze(-1).exp()

    @property
    def sums(self) -> Tensor:
        """Loss, divergence, entropy and labels that were the likeliest token: (4)."""
        label_logprobs = self.logprobs.gather(-1, self.labels).squeeze(-1)
        loss = -(self.weights * label_logprobs).sum()
        loss = loss + self.spec.kl_weight * (self.shares * self.kl).sum()
        entropy = -_dot(self.probabilities, self.logprobs).sum()
        correct = (self.logprobs.argmax(-1, keepdim=True) == self.labels).sum()
        return torch.stack([loss, self.kl.sum(), entropy, correct.float()])

    def logit_gradient(self) -> Tensor:
        """Of the loss with respect to `weight h + bias`: (rows, vocab). Overwrites the chunk.

        Of -log p(y): p - onehot(y). Of KL(q || p): p - q. Of KL(p || q): p (log p - log q - KL).
        """
        pull, towards = self.weights[:, None], self.spec.kl_weight * self.shares[:, None]
        gradient = self.probabilities
        if self.start is None:
            gradient.mul_(pull)
        elif self.spec.direction == "forward":
            gradient.mul_(pull + towards).sub_(self.start.mul_(towards))
        else:
            slope = self.start.neg_().add_(self.logprobs).sub_(self.kl[:, None])
            gradient.mul_(slope.mul_(towards).add_(pull))
        gradient.scatter_add_(-1, self.labels, -pull)
        return self._through_cap(gradient)

    def _through_cap(self, gradient: Tensor) -> Tensor:
        if self.head.softcap is not None:
            normaliser = self.first_logit - self.logprobs[:, :1]
            tanh = self.logprobs.add_(normaliser).div_(self.head.softcap)
            gradient.mul_(tanh.square_().neg_().add_(1))
        return gradient if self.head.scale == 1.0 else gradient.mul_(self.head.scale)


class _Gradients:
    """Gradients of hidden states, weight and bias, added up in float32 chunk by chunk."""

    def __init__(
        self, needed: tuple[bool, ...], hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> None:
        self.inputs = (hidden, weight, bias)
        self.dtypes = tuple(None if each is None else each.dtype for each in self.inputs)
        self.hidden, self.weight, self.bias = (
            torch.zeros(each.shape, device=each.device) if need and each is not None else None
            for need, each in zip(needed, self.inputs, strict=True)
        )

    def add(self, part: slice, gradient: Tensor, states: Tensor) -> None:
        weight = self.inputs[1]
        assert weight is not None
        if self.hidden is not None:
            for columns in _tiles(weight):
                _add_product(self.hidden[part], gradient[:, columns], weight[columns])
        if self.weight is not None:
            _add_product(self.weight, gradient.t(), states)
        if self.bias is not None:
            self.bias += gradient.sum(0, dtype=torch.float32)

    def scaled(self, slope: Tensor) -> tuple[Tensor | None, ...]:
        sums = (self.hidden, self.weight, self.bias)
        return tuple(
            None if each is None else each.mul_(slope).to(dtype)
            for each, dtype in zip(sums, self.dtypes, strict=True)
        )


def _chunks(hidden: Tensor, vocabulary: int) -> Iterator[slice]:
    size = CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"])
    rows = max(16, size // (4 * vocabulary))
    for start in range(0, hidden.shape[0], rows):
        yield slice(start, start + rows)


def _logits(states: Tensor, head: Head) -> Tensor:
    """In float32, capped: (rows, vocab)."""
    logits = torch.zeros(states.shape[0], head.weight.shape[0], device=states.device)
    for columns in _tiles(head.weight):
        _add_product(logits[:, columns], states, head.weight[columns].t())
    if head.bias is not None:
        logits.add_(head.bias.float())
    if head.scale != 1.0:
        logits.mul_(head.scale)
    return logits if head.softcap is None else logits.div_(head.softcap).tanh_().mul_(head.softcap)


def _tiles(weight: Tensor) -> Iterator[slice]:
    """All of it where nothing is converted, else parts, so that no whole copy is made."""
    step = weight.shape[0] if weight.dtype == torch.float32 or weight.is_cuda else TILE
    for start in range(0, weight.shape[0], step):
        yield slice(start, start + step)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left @ right` to the float32 total without rounding it to half precision before."""
    right = right.to(left.dtype)
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Of each row, without holding the products: (rows)."""
    return torch.bmm(left[:, None, :], right[:, :, None]).flatten()


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
