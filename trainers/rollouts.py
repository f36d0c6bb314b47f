"""Rollouts: what the current policy writes to prompts, cut where the evaluation would cut it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from harness.engines.stopping import Stops, Vocabulary
from harness.types import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """ids: the sampled tokens, with what ended them (an end token, or the rest of a stop string).
    text: what a scorer reads. truncated: nothing ended it but the limit of tokens."""

    ids: list[int]
    text: str
    truncated: bool


class Ending:
    """Where a completion ends: at an end token or a stop string, as in the engines."""

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int], sampling: SamplingParams) -> None:
        self._vocabulary = Vocabulary(tokenizer)
        self._stops = Stops(self._vocabulary, sampling.stop)
        self._include = sampling.include_stop
        self.ids = frozenset((*eos_ids, *self._stops.ids))

    def rollout(self, ids: Sequence[int]) -> Rollout:
        """The completion up to its end; what follows (padding) is dropped."""
        length = next((n for n in range(1, len(ids) + 1) if self._ended(ids[:n])), None)
        kept = list(ids[:length])
        return Rollout(ids=kept, text=self._text(kept), truncated=length is None)

    def completes_stop(self, ids: Sequence[int]) -> bool:
        """Whether a stop string ends within the last token, if none ended before it."""
        if not self.may_complete_stop(ids[-1]):
            return False
        return self._stops.cut(self._vocabulary.decode(ids)) is not None

    def may_complete_stop(self, token: int) -> bool:
        return self._stops.may_end_with(token)

    def _ended(self, ids: Sequence[int]) -> bool:
        return ids[-1] in self.ids or self.completes_stop(ids)

    def _text(self, ids: Sequence[int]) -> str:
        text = self._vocabulary.decode(ids)
        cut = self._stops.cut(text, include=self._include)
        if cut is not None:
            return cut
        return text + (self._stops.ids.get(ids[-1], "") if self._include and ids else "")


class _AtStopString(StoppingCriteria):  # type: ignore[misc]
    """Ends rows at stop strings; generation itself ends them at end tokens."""

    def __init__(self, ending: Ending, prompt_length: int) -> None:
        self._ending = ending
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self._ending.may_complete_stop(token):  # else there is nothing to decode
                ids = input_ids[row, self._prompt_length :].tolist()
                done[row] = self._ending.completes_stop(ids)
        return done


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a text: the model may name more of them than the tokenizer."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    found = {tokenizer.eos_token_id, *several} - {None}
    return tuple(sorted(found))


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ending: Ending,
    sampling: SamplingParams,
    pad_id: int,
    min_tokens: int = 0,
) -> list[Rollout]:
    """One sampled completion for each prompt of token ids, in order.

    Prompts are padded on the left. The model is put into evaluation mode meanwhile, which switches
    dropout and gradient checkpointing off and lets it use its cache.
    """
    ids, mask = left_padded(prompts, pad_id, model.device)
    with torch.no_grad(), _for_generation(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=_generation_config(ending, sampling, pad_id, min_tokens),
            stopping_criteria=StoppingCriteriaList([_AtStopString(ending, ids.shape[1])]),
        )
    return [ending.rollout(row) for row in output[:, ids.shape[1] :].tolist()]


@contextlib.contextmanager
def _for_generation(model: Any) -> Iterator[None]:
    """Evaluation mode, and none of the sampling settings that the checkpoint came with: what a
    GenerationConfig leaves open (a repetition penalty, say) would be taken from there."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    training, own = model.training, bare.generation_config
    model.eval()
    bare.generation_config = GenerationConfig()
    try:
        yield
    finally:
        bare.generation_config = own
        model.train(training)


def _generation_config(
    ending: Ending, sampling: SamplingParams, pad_id: int, min_tokens: int
) -> Any:
    return GenerationConfig(
        min_new_tokens=min_tokens or None,
        max_new_tokens=sampling.max_tokens,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
        eos_token_id=sorted(ending.ids),
        pad_token_id=pad_id,
        use_cache=True,
        disable_compile=True,
    )


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """Token ids (rows, longest) that end in the last column, and a mask: 1 where they are."""
    longest = max(map(len, rows))
    ids = [[pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def right_padded(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """Token ids (rows, longest) that begin in the first column, and a mask: 1 where they are."""
    longest = max(map(len, rows))
    ids = [list(row) + [pad_id] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
