"""Examples that no trial learns, whose loss says how good a trial is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from harness.errors import UsageError
from harness.types import JSON


def held_out(examples: Sequence[JSON], wanted: int | float) -> tuple[list[JSON], list[JSON]]:
    """What is learnt, and what is held out: a share below 1, or so many examples.

    Examples with one prompt stay together. Which are held out depends on the prompts alone.
    Raises UsageError where one of both would be empty.
    """
    count = round(wanted * len(examples)) if wanted < 1 else int(wanted)
    by_prompt: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        by_prompt.setdefault(prompt_mark(example), []).append(place)
    chosen: set[int] = set()
    for mark in sorted(by_prompt):
        if len(chosen) >= count:
            break
        chosen.update(by_prompt[mark])
    if not 0 < len(chosen) < len(examples):
        raise UsageError(
            f"`search.held_out: {wanted}` of {len(examples)} examples leaves "
            f"{len(examples) - len(chosen)} to learn and {len(chosen)} to measure the loss on",
            "such as 0.1",
        )
    return (
        [one for place, one in enumerate(examples) if place not in chosen],
        [one for place, one in enumerate(examples) if place in chosen],
    )


def prompt_mark(example: JSON) -> str:
    return hashlib.sha256(json.dumps(example["prompt"], sort_keys=True).encode()).hexdigest()
