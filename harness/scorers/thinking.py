"""What is no part of an answer: thinking text between `<think>` and `</think>`, and a question with
which a model writes on."""

from __future__ import annotations

import re

from harness.types import Completion, Sample

_OPEN, _CLOSE = "<think>", "</think>"
# How turns and texts end, where an engine or a template leaves these tokens in the text.
_END = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end|endoftext|end_of_text|end_of_turn)\|>|<end_of_turn>|</s>"
)

_NEXT_QUESTION = re.compile(
    r"(?m)^[ \t]*(?:(?:Question|Problem|Q)[ \t]*[0-9]{0,4}[ \t]*[:.]"
    r"|The following (?:is a|are) multiple[ -]choice questions?\b)"
)


def before_next_question(text: str) -> str:
    """What stands before a `Question:` line that is not the first line; all where there is none.

    >>> before_next_question("It is 4.\\n\\nQuestion: What is 3 + 3?")
    'It is 4.\\n\\n'
    """
    may = any(start in text for start in ("\nQ", "\n Q", "\nProblem", "\nThe following"))
    further = _NEXT_QUESTION.search(text, 1) if may else None
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


def before_end_token(text: str) -> str:
    """What stands before the first token that ends a turn; all where it would be nothing.

    >>> before_end_token("It is 4.<|im_end|>\\nIt is 5."), before_end_token("a < 4")
    ('It is 4.', 'a < 4')
    """
    ended = _END.search(text) if "<" in text else None
    return text[: ended.start()] if ended and text[: ended.start()].strip() else text


def visible_answer(sample: Sample, completion: Completion) -> str | None:
    """The completion without thinking text; None where thinking never ended.

    The stored completion keeps everything; only what a grader reads is cut.
    """
    prompt = completion.prompt or sample.input
    opened = isinstance(prompt, str) and prompt.rstrip().endswith(_OPEN)
    visible = without_thinking(completion.text, opened=opened)
    return None if visible is None else before_end_token(visible)
