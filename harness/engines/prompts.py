"""The requests of one model as token ids: encoded once, checked against the context, counted."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Container, Sequence
from typing import Any

import transformers

from harness.engines.base import Tokenized
from harness.engines.loading import context_length, load_config, load_tokenizer
from harness.engines.tokenizing import Prepared, PromptEncoder
from harness.engines.trie import SortedPaths, size, unpack
from harness.errors import WorkerError
from harness.types import ModelSpec, Request

Key = tuple[str, int]  # a request's id, and the number of one of its samples


class Prompts:
    """What one model is asked. engine: its name, for messages. context: in tokens, 0 = the
    model's own. embeds: whether the engine gives hidden states."""

    def __init__(
        self, model: ModelSpec, engine: str, context: int, *, embeds: bool = False
    ) -> None:
        self.model = model
        self._embeds = embeds
        self._engine = engine
        self._asked_context = context
        self._prepared: dict[str, Prepared] = {}

    @functools.cached_property
    def config(self) -> Any:
        return load_config(self.model)

    @functools.cached_property
    def encoder(self) -> PromptEncoder:
        transformers.logging.set_verbosity_error()
        tokenizer = load_tokenizer(self.model)
        return PromptEncoder(tokenizer, self.model.name, self.model.chat_template)

    @functools.cached_property
    def context(self) -> int:
        """Tokens that one sequence may have."""
        tokenizer = self.encoder.tokenizer
        return context_length(self.model, self.config, tokenizer, self._asked_context)

    def take(self, requests: Sequence[Request]) -> Tokenized:
        """Raises WorkerError if a prompt with what is to follow it exceeds the context."""
        for request in requests:
            if request.kind == "embed" and not self._embeds:
                raise WorkerError(
                    f"request `{request.id}` asks engine `{self._engine}` for hidden states",
                    "use `--engine hf`",
                    cause="unsupported",
                )
        prepared = list(self.encoder.prepare(requests, self.context))
        self._check_lengths(prepared)
        self._prepared.update((one.request.id, one) for one in prepared)
        return self._described(prepared)

    def of(self, requests: Sequence[Request]) -> list[Prepared]:
        """The requests as they were taken; those that were not are taken now."""
        if unknown := [request for request in requests if request.id not in self._prepared]:
            self.take(unknown)
        return [self._prepared[request.id] for request in requests]

    def longest(self) -> int:
        """Most tokens that any request taken so far may need."""
        return max(map(most_tokens, self._prepared.values()), default=1)

    def all(self) -> Sequence[Prepared]:
        return tuple(self._prepared.values())

    def _check_lengths(self, prepared: Sequence[Prepared]) -> None:
        lengths = [most_tokens(one) for one in prepared]
        over = [length for length in lengths if length > self.context]
        if over:
            longest = prepared[lengths.index(max(over))]
            raise WorkerError(
                f"{len(over)} of {len(prepared)} requests exceed the context of "
                f"{self.context} tokens of `{self.model.name}`: the longest, "
                f"`{longest.request.id}`, has {size(longest.prompt)} prompt tokens and may add "
                f"{longest.added_tokens()}",
                "use fewer `--shots`, fewer `--max-tokens`, or a model with a longer context",
                cause="context_length",
            )

    def _described(self, prepared: Sequence[Prepared]) -> Tokenized:
        digest = hashlib.sha256()
        for one in prepared:
            for tokens in (one.prompt, *(part for pair in one.choices for part in pair)):
                digest.update(len(tokens).to_bytes(8, "little") + tokens)
        longest = max(prepared, key=most_tokens, default=None)
        first = prepared[0] if prepared else None
        ids = tuple(unpack(first.prompt)) if first else ()
        bos = self.encoder.tokenizer.bos_token_id
        return Tokenized(
            n_requests=len(prepared),
            prompt_tokens=sum(size(one.prompt) for one in prepared),
            distinct_tokens=count_distinct(prepared),
            longest=(longest.request.id, size(longest.prompt), longest.added_tokens())
            if longest
            else ("", 0, 0),
            context=self.context,
            first_prompt=_shown(first) if first else "",
            first_ids=ids,
            bos_count=next((n for n, token in enumerate(ids) if token != bos), len(ids)),
            prompts_sha256=digest.hexdigest(),
        )


def count_distinct(prepared: Sequence[Prepared]) -> int:
    """Scoring and generation are computed apart, so their prefixes count apart."""
    generated = [one.prompt for one in prepared if one.request.kind == "generate"]
    scored = [p for one in prepared if one.request.kind != "generate" for p in one.paths()]
    return sum(SortedPaths.of(paths).count_nodes() for paths in (generated, scored))


def most_tokens(prepared: Prepared) -> int:
    """Tokens that the model may have to read: the last one of a choice is only looked up."""
    if prepared.request.kind in ("generate", "embed"):
        return size(prepared.prompt) + prepared.added_tokens()
    return max(size(context) + size(answer) - 1 for context, answer in prepared.choices)


def missing(prepared: Prepared, skip: Container[Key]) -> list[int]:
    """The sample indices of a request that are not answered yet."""
    sampling = prepared.request.sampling
    count = sampling.n if sampling and prepared.request.kind == "generate" else 1
    return [n for n in range(count) if (prepared.request.id, n) not in skip]


def end_tokens(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text. generation_config: the model's, None where it has none."""
    stated = getattr(generation_config, "eos_token_id", None)
    return _ids(stated) | _ids(tokenizer.eos_token_id)


def _ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _shown(prepared: Prepared) -> str:
    if prepared.text is not None:
        return prepared.text
    assert isinstance(prepared.request.prompt, str)
    return prepared.request.prompt
