"""The texts that a steering vector is taken from: answers to the same prompts, chosen or rejected.

Rendered as D-STEER does: the turns before the last answer as `Role: message` lines, then
`Assistant:` and the answer, without a chat template.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from harness.datasets import DatasetNotFoundError, load, packaged
from harness.embedding_options import prompts_dataset
from harness.errors import DataError
from harness.task import Row
from harness.types import Dataset

HH = Dataset(path="Anthropic/hh-rlhf", split="train")
_OFFLINE = "preferences.jsonl"
_SEED = 42
_TURN = re.compile(r"\s*\b(Human|Assistant):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    lines: tuple[str, ...]
    revision: str
    source: str


def preference_texts(
    source: str | None, side: str, n: int, *, data_root: Path | None, offline: bool
) -> Texts:
    """n answers of one side (`chosen` or `rejected`), drawn by a fixed seed.

    source: a file or hub id instead of Anthropic/hh-rlhf, with a column of that name.
    Raises DataError where there is none.
    """
    dataset = prompts_dataset(source) if source else HH
    try:
        loaded = load(
            packaged(dataset, _OFFLINE) if offline and not source else dataset,
            (side,),
            data_root=data_root,
        )
    except DatasetNotFoundError as error:
        hint = f"{error.hint}; or give `--texts FILE` (columns chosen, rejected)"
        raise DatasetNotFoundError(error.message, hint) from None
    places = list(range(len(loaded.rows)))
    random.Random(_SEED).shuffle(places)
    lines = tuple(rendered(loaded.rows[place], side) for place in places[:n])
    return Texts(lines=lines, revision=loaded.revision, source=loaded.source)


def rendered(row: Row, side: str) -> str:
    """A dialogue of the row as one text.

    >>> rendered({"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello."}, "chosen")
    'Human: Hi\\nAssistant:Hello.'
    """
    value = row[side]
    if isinstance(value, list):
        turns = [(str(turn["role"]).capitalize(), str(turn["content"])) for turn in value]
    elif isinstance(value, str):
        turns = _turns(value)
    else:
        raise DataError(f"column `{side}` should hold a dialogue, but is {value!r}")
    if isinstance(row.get("prompt"), str) and len(turns) == 1:
        turns = [("Human", str(row["prompt"])), ("Assistant", turns[0][1])]
    if len(turns) == 1:
        return turns[0][1]
    before = "\n".join(f"{role}: {message}" for role, message in turns[:-1])
    return f"{before}\nAssistant:{turns[-1][1]}"


def _turns(text: str) -> list[tuple[str, str]]:
    pieces = _TURN.split(text)
    turns = list(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True))
    return turns or [("Assistant", text.strip())]
