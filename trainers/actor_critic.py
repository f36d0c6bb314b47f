"""The policy of PPO with its critic, and the reference that holds it back."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

Critic = Literal["shared", "separate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Prompts with what was written to them, one a row.

    ids, attention: (batch, prompt + response), prompts padded on the left and responses on the
    right. mask: (batch, response), float, 1 where a token was sampled.
    """

    ids: Tensor
    attention: Tensor
    mask: Tensor

    @property
    def response_length(self) -> int:
        return self.mask.shape[1]

    def rows(self, index: Tensor) -> Sequences:
        return Sequences(
            ids=self.ids[index], attention=self.attention[index], mask=self.mask[index]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Of each response token: its log-probability and the entropy before it, in nats, and what the
    critic expects from it on. All (batch, response), float32; without meaning where masked."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


class ActorCritic(nn.Module):
    """A causal model with a linear head that says what reward is still to come.

    critic: whether the head reads the policy's own last layer, which costs nothing, or that of a
    copy of the backbone that learns by itself, which leaves the policy in peace. The head starts
    at zero: the first advantages are the rewards themselves. temperature: of the rollouts, so that
    log-probabilities are those of the distribution that was sampled from. entropy_learns: whether
    the entropy gets a gradient, which costs another tensor of the size of the logits.
    """

    def __init__(
        self, policy: Any, critic: Critic, temperature: float, *, entropy_learns: bool = False
    ) -> None:
        super().__init__()
        self.policy = policy
        bare = bare_model(policy)
        self.backbone = copy.deepcopy(bare.get_decoder()) if critic == "separate" else None
        width = bare.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, device=bare.device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._temperature = temperature
        self._entropy_learns = entropy_learns

    def forward(self, sequences: Sequences) -> Judged:
        output = _read(self.policy, sequences)
        hidden = output.hidden_states[-1]
        if self.backbone is not None:
            hidden = self.backbone(**_inputs(sequences)).last_hidden_state
        # Column i of the response is written after column i - 1 was read.
        before = slice(-sequences.response_length - 1, -1)
        everything = _distribution(output.logits, self._temperature)
        with torch.set_grad_enabled(self._entropy_learns and torch.is_grad_enabled()):
            entropy = -(everything.exp() * everything).sum(dim=-1)
        values = self.head(hidden[:, before].float()).squeeze(-1)
        return Judged(logprobs=_chosen(everything, sequences), entropy=entropy, values=values)

    def trained(self) -> dict[str, Tensor]:
        """The parameters that learn, by name: under LoRA the adapters and the head."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


class Reference:
    """The start model: the policy with its adapters off, or a frozen copy of it.

    Not a module, so that the copy is in nobody's tree: it is neither trained, sharded nor saved.
    """

    def __init__(self, policy: Any, temperature: float) -> None:
        self._policy = policy
        self._copy = None if isinstance(policy, PeftModel) else frozen_copy(policy)
        self._temperature = temperature

    @torch.no_grad()
    def logprobs(self, sequences: Sequences) -> Tensor:
        """Of each response token, in nats: (batch, response)."""
        with self._model() as model:
            logits = _read(model, sequences).logits
        return _chosen(_distribution(logits, self._temperature), sequences)

    @contextlib.contextmanager
    def _model(self) -> Iterator[Any]:
        if self._copy is not None:
            yield self._copy
            return
        with self._policy.disable_adapter():
            yield self._policy


def bare_model(policy: Any) -> Any:
    """The causal model under its adapters."""
    return policy.get_base_model() if isinstance(policy, PeftModel) else policy


def frozen_copy(model: Any) -> Any:
    return copy.deepcopy(model).eval().requires_grad_(False)


def _inputs(sequences: Sequences) -> dict[str, Any]:
    # Left padding must not shift positions: a token stands where it stood while generating.
    positions = (sequences.attention.cumsum(dim=1) - 1).clamp(min=0)
    return {
        "input_ids": sequences.ids,
        "attention_mask": sequences.attention,
        "position_ids": positions,
        "use_cache": False,
    }


def _read(model: Any, sequences: Sequences) -> Any:
    """Logits of the response columns and of the one before them, and all hidden states."""
    kept = sequences.response_length + 1
    return model(**_inputs(sequences), output_hidden_states=True, logits_to_keep=kept)


def _distribution(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of every token in every response column."""
    return torch.log_softmax(logits[:, :-1].float() / temperature, dim=-1)


def _chosen(everything: Tensor, sequences: Sequences) -> Tensor:
    tokens = sequences.ids[:, -sequences.response_length :].unsqueeze(-1)
    return everything.gather(-1, tokens).squeeze(-1)
