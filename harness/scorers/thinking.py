"""Thinking text: what stands between `<think>` and `</think>` is no part of the answer."""

from __future__ import annotations

from harness.types import Completion, Sample

_OPEN, _CLOSE = "<think>", "</think>"


def without_thinking(text: str, *, opened: bool = False) -> str | None:
    """What follows the last `</think>`; None where a block is not closed.

    opened: whether the prompt has opened the block already, as some chat templates do.

    >>> without_thinking("<think>2 + 2 = 5? No.</think>4"), without_thinking("It is 4.")
    ('4', 'It is 4.')
    >>> without_thinking("<think>2 + 2") is None, without_thinking("2 + 2", opened=True) is None
    (True, True)
    """
    _, closed, answer = text.rpartition(_CLOSE)
    if not closed:
        return None if opened or _OPEN in text else text
    return None if _OPEN in answer else answer


def visible_answer(sample: Sample, completion: Completion) -> str | None:
    """The completion without thinking text; None where thinking never ended.

    The stored completion keeps everything; only what a grader reads is cut.
    """
    prompt = completion.prompt or sample.input
    opened = isinstance(prompt, str) and prompt.rstrip().endswith(_OPEN)
    return without_thinking(completion.text, opened=opened)
