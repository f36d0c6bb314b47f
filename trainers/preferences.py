"""Pairs of answers as tokens, and as the batches that preference training takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.errors import DataError
from harness.trainer import read_examples
from harness.types import JSON, Recipe
from trainers.losses import IGNORED
from trainers.tokenizing import Counts, Tokenizing, Tokens

COLUMNS = ("chosen_ids", "chosen_labels", "rejected_ids", "rejected_labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both answers behind the same prompt; labels are -100 on the prompt."""

    chosen: Tokens
    rejected: Tokens

    @property
    def length(self) -> int:
        return max(len(self.chosen.ids), len(self.rejected.ids))


def tokenized_pairs(folder: Path, recipe: Recipe, tokenizer: object) -> Dataset:
    """A row for each pair that stays, with the columns COLUMNS."""
    tokenizing = Tokenizing(
        tokenizer=tokenizer, max_length=recipe.max_length, overlong=recipe.overlong
    )
    rows = [
        (pair.chosen.ids, pair.chosen.labels, pair.rejected.ids, pair.rejected.labels)
        for pair in pairs(read_examples(folder), tokenizing, Counts())
    ]
    if not rows:
        raise DataError(
            f"no pair is as short as `max_length` {recipe.max_length}", "a larger max_length"
        )
    return Dataset.from_list([dict(zip(COLUMNS, row, strict=True)) for row in rows])


def pairs(examples: Iterable[JSON], tokenizing: Tokenizing, counts: Counts) -> Iterator[Pair]:
    """Raises DataError for an empty answer, and for pairs longer than `max_length` where that is
    an error. A pair is dropped whole; cut, it goes where either answer loses all of its tokens.

    counts: of pairs, and of the tokens of both sides.
    """
    for number, example in enumerate(examples, 1):
        pair = Pair(
            chosen=_answer(example, "chosen", tokenizing, number),
            rejected=_answer(example, "rejected", tokenizing, number),
        )
        counts.examples += 1
        counts.longest = max(counts.longest, pair.length)
        if pair.length > tokenizing.max_length:
            counts.overlong += 1
            kept = _shortened(pair, tokenizing)
            if kept is None:
                continue
            pair = kept
        counts.add(pair.chosen, pair.rejected)
        yield pair
    if counts.overlong and tokenizing.overlong == "error":
        raise DataError(
            f"{counts.overlong} of {counts.examples} pairs are longer than `max_length` "
            f"{tokenizing.max_length}, the longest has {counts.longest} tokens",
            "`--set overlong=drop`, `--set overlong=truncate`, or a larger max_length",
        )


def _answer(example: JSON, name: str, tokenizing: Tokenizing, number: int) -> Tokens:
    if not example[name] or (isinstance(example[name], str) and not example[name].strip()):
        raise DataError(f"the {name} answer of example {number} is empty", "leave it out")
    return tokenizing.example({"prompt": example["prompt"], "completion": example[name]}, number)


def _shortened(pair: Pair, tokenizing: Tokenizing) -> Pair | None:
    if tokenizing.overlong != "truncate":
        return None
    most = tokenizing.max_length
    cut = replace(pair, chosen=_cut(pair.chosen, most), rejected=_cut(pair.rejected, most))
    taught = all(set(side.labels) - {IGNORED} for side in (cut.chosen, cut.rejected))
    return cut if taught else None


def _cut(tokens: Tokens, most: int) -> Tokens:
    return Tokens(ids=tokens.ids[:most], labels=tokens.labels[:most])


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCollator:
    """Batches of n pairs: (2n, seq), first the n chosen answers, then the n rejected ones."""

    pad_token_id: int

    def __call__(self, rows: Sequence[JSON]) -> dict[str, Tensor]:
        sides = ("chosen", "rejected")
        ids = [torch.tensor(row[f"{side}_ids"]) for side in sides for row in rows]
        labels = [torch.tensor(row[f"{side}_labels"]) for side in sides for row in rows]
        mask = [torch.ones_like(each) for each in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence(mask, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }
