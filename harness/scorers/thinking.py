"""What is no part of an answer: thinking text between `<think>` and `</think>`, and a question with
which a model writes on."""

from __future__ import annotations

import re

from harness.types import Completion, Sample

_OPEN, _CLOSE = "<think>", "</think>"

_NEXT_QUESTION = re.compile(r"(?m)^[ \t]*(?:Question|Q)[ \t]*[0-9]{0,4}[ \t]*[:.]")


def before_next_question(text: str) -> str:
    """What stands before a `Question:` line that is not the first line; all where there is none.

    >>> before_next_question("It is 4.\\n\\nQuestion: What is 3 + 3?")
    'It is 4.\\n\\n'
    """
    further = _NEXT_QUESTION.search(text, 1) if "\nQ" in text or "\n Q" in text else None
    return text[: further.start()] if further else text


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
