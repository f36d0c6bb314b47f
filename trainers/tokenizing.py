"""From an example to token ids and labels: what is learnt is decided here and nowhere else.

A text is tokenised whole, prompt and completion together, as the evaluation tokenises a question
with its answer; a token that holds any character of a completion belongs to it. Messages are
rendered with the chat template, and each turn of the assistant is learnt from the first character
that the template does not write itself to the end of what it puts behind the turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import DataError, UsageError
from harness.types import JSON, Overlong

IGNORED = -100

TrainOn = Literal["completion", "all"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """ids and labels of one sequence, equally long; labels are -100 where nothing is learnt."""

    ids: list[int]
    labels: list[int]


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of the examples. tokens, learnt: of those that stayed."""

    examples: int = 0
    kept: int = 0
    overlong: int = 0
    tokens: int = 0
    learnt: int = 0
    longest: int = 0

    def add(self, *sides: Tokens) -> None:
        """An example that stays: one sequence, or the two of a pair."""
        self.kept += 1
        self.tokens += sum(len(side.ids) for side in sides)
        self.learnt += sum(label != IGNORED for side in sides for label in side.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizing:
    """How examples become tokens. eos: whether a text ends with the end-of-text token (a chat
    template ends turns itself)."""

    tokenizer: Any
    max_length: int
    overlong: Overlong = "error"
    train_on: TrainOn = "completion"
    eos: bool = True

    def examples(self, examples: Iterable[JSON], counts: Counts) -> Iterator[Tokens]:
        """Every example that stays. Raises DataError for one that teaches nothing, and for those
        longer than `max_length` where that is an error."""
        for number, example in enumerate(examples, 1):
            counts.examples += 1
            tokens = self.example(example, number)
            counts.longest = max(counts.longest, len(tokens.ids))
            if len(tokens.ids) > self.max_length:
                counts.overlong += 1
                tokens = self._cut(tokens)
                if not any(label != IGNORED for label in tokens.labels):
                    continue
            counts.add(tokens)
            yield tokens
        if counts.overlong and self.overlong == "error":
            raise DataError(
                f"{counts.overlong} of {counts.examples} examples are longer than `max_length` "
                f"{self.max_length}, the longest has {counts.longest} tokens",
                "`--set overlong=drop`, `--set overlong=truncate`, or a larger max_length",
            )

    def example(self, example: JSON, number: int = 1) -> Tokens:
        """One example, however long. number: from 1, to name it by."""
        prompt, completion = example["prompt"], example["completion"]
        if not completion or (isinstance(completion, str) and not completion.strip()):
            raise DataError(f"the completion of example {number} is empty", "leave it out")
        if isinstance(prompt, str):
            text, spans = prompt + completion, [(len(prompt), len(prompt + completion))]
        else:
            text, spans = self._rendered(prompt, _turns(completion))
        tokens = self._tokens(text, spans, rendered=not isinstance(prompt, str))
        if all(label == IGNORED for label in tokens.labels):
            raise DataError(f"example {number} has no token to learn from", "leave it out")
        return tokens

    def _tokens(self, text: str, spans: Sequence[Span], *, rendered: bool) -> Tokens:
        # A rendered text holds its special tokens already.
        encoded = self.tokenizer(
            text, add_special_tokens=not rendered, return_offsets_mapping=True, truncation=False
        )
        ids = list(encoded["input_ids"])
        learnt = [_within(offset, spans) for offset in encoded["offset_mapping"]]
        end = self.tokenizer.eos_token_id
        if not rendered and self.eos:
            if ids[-1] == end:  # some tokenizers add it themselves
                learnt[-1] = True
            else:
                ids.append(end)
                learnt.append(True)
        if self.train_on == "all":
            return Tokens(ids=ids, labels=list(ids))
        labels = [i if yes else IGNORED for i, yes in zip(ids, learnt, strict=True)]
        return Tokens(ids=ids, labels=labels)

    def _rendered(self, prompt: list[JSON], completion: list[JSON]) -> tuple[str, list[Span]]:
        """The whole conversation, and where the assistant's turns of the completion are in it."""
        messages = [*prompt, *completion]
        text = self._render(messages)
        spans = []
        for index in range(len(prompt), len(messages)):
            if messages[index]["role"] == "assistant":
                before = self._render(messages[:index], generate=True)
                after = self._render(messages[: index + 1])
                spans.append((_shared(before, text), _shared(after, text)))
        return text, spans

    def _render(self, messages: list[JSON], *, generate: bool = False) -> str:
        if self.tokenizer.chat_template is None:
            raise UsageError(
                "the examples are messages, and the tokenizer has no chat template",
                "`--set chat_template=FILE.jinja`, or a template of text such as `alpaca`",
            )
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate
            )
        )

    def _cut(self, tokens: Tokens) -> Tokens:
        if self.overlong == "drop":
            return Tokens(ids=[], labels=[])
        most = self.max_length
        return Tokens(ids=tokens.ids[:most], labels=tokens.labels[:most])


def _turns(completion: str | list[JSON]) -> list[JSON]:
    if isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    return completion


def _within(offset: Span, spans: Sequence[Span]) -> bool:
    """Whether a token has a character of any span; special tokens that were added have none."""
    return any(offset[0] < end and offset[1] > start for start, end in spans)


def _shared(prefix: str, text: str) -> int:
    pairs = enumerate(zip(prefix, text, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(prefix), len(text)))
