"""What is not handed to a computer algebra system, because it could only cost time or worse."""

from __future__ import annotations

import re

_MAX_LENGTH = 2_000
_MAX_DEPTH = 40
_REFUSED = (
    ("a dunder name", re.compile(r"__")),
    ("a power tower", re.compile(r"\d\s*\}*\s*(?:\^|\*\*)\s*[{(]*\s*\d+\s*[})]*\s*(?:\^|\*\*)")),
    ("a huge exponent", re.compile(r"(?:\^|\*\*)\s*[{(]*\s*-?\s*\d{6,}")),
    ("a huge factorial", re.compile(r"\d{5,}\s*[})]*\s*!|!\s*!")),
    ("a huge number", re.compile(r"\d{500,}|\de[+-]?\d{4,}", re.IGNORECASE)),
)


def refusal(text: str) -> str:
    r"""Why a text is not to be parsed, '' where it may be.

    >>> refusal("9^9^9^9"), refusal("100000!"), refusal(r"\frac{1}{2"), refusal("2^{10}")
    ('a power tower', 'a huge factorial', 'unbalanced braces', '')
    """
    if len(text) > _MAX_LENGTH:
        return "too long"
    for reason, pattern in _REFUSED:
        if pattern.search(text):
            return reason
    return _braces(text)


def _braces(text: str) -> str:
    depth = deepest = 0
    for character in text.replace("\\{", "").replace("\\}", ""):
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth -= 1
    curly = text.count("{") - text.count("\\{") - text.count("}") + text.count("\\}")
    if curly:
        return "unbalanced braces"
    return "nested too deeply" if deepest > _MAX_DEPTH else ""
