"""Where the final answer stands in a model's text, for graders without a rule of their own."""

from __future__ import annotations

import re
from collections import deque

_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_BRACE = re.compile(r"\\[{}\\]|[{}]")
_JOINS = re.compile(
    r"(?:[\s$,;.:*]|\\[()\[\],; ]|\\text\{\s*(?:and|or)\s*\}|\band\b|\bor\b|[A-Za-z]\s*=)*\Z"
)
_JOINED_AT_MOST = 80
_SAID = re.compile(r"(?:final answer|answer is|answer:\**|####)", re.IGNORECASE)
_SAID_PREFIX = re.compile(r"(?i)\A[\s:*]*(?:final answer)?[\s:*]*(?:is)?[\s:*]*")
_FORMULA = re.compile(
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$((?:\\.|[^$\\]){1,2000})\$"
    r"|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_SENTENCE_END = re.compile(r"\.(?:\s|\Z)")
_TAIL = 20_000
_BOXES_TRIED = 30


def final_answer(text: str) -> str | None:
    r"""The final answer that a text gives, None where it gives none.

    In this order: the last `\boxed` (boxes that only `and`, `or` or a comma parts are one list),
    what follows the last "answer is", "answer:" or "####", the last formula, the last number.
    Thinking that ends in `</think>` does not count, unless nothing follows it.

    >>> final_answer(r"so $\boxed{\frac{1}{2}}$ or $\boxed{3}$.")
    '\\frac{1}{2},3'
    >>> final_answer("3 + 4 = 7. The answer is $x = 7$."), final_answer("I get 12 or 13.")
    ('x = 7', '13')
    """
    text = text.rpartition("</think>")[2].strip() or text
    return boxed_answer(text) or said_answer(text) or last_formula(text) or last_number(text)


def boxed_answer(text: str) -> str | None:
    r"""The contents of the last closed `\boxed` or `\fbox` and of those joined to it."""
    text = text[-_TAIL:]
    found: list[str] = []
    start = len(text)
    for match in reversed([*_BOX.finditer(text)][-_BOXES_TRIED:]):
        content, end = _box_content(text, match.end())
        if not content:
            continue
        between = text[end:start]
        if found and (len(between) > _JOINED_AT_MOST or not _JOINS.match(between)):
            break
        if content not in found:
            found.insert(0, content)
        start = match.start()
    return ",".join(found) or None


def _box_content(text: str, start: int) -> tuple[str, int]:
    """What a box holds that opens at `start`, and where it ends; '' where it does not close."""
    if text[start : start + 1] != "{":
        bare = re.compile(r"[^\s$.,;]*").match(text, start)
        return (bare[0], bare.end()) if bare else ("", start)
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return text[start + 1 : brace.start()].strip(), brace.end()
    return "", len(text)


def said_answer(text: str) -> str | None:
    """What follows the last "answer is", "answer:" or "####" in its sentence or its formula."""
    said = _last(_SAID, text)
    if said is None:
        return None
    after = said.string[said.end() :]
    after = after[_SAID_PREFIX.match(after).end() :]  # type: ignore[union-attr]
    line = after.partition("\n")[0]
    formula = _FORMULA.search(after[:2_000])
    if formula and formula.start() < max(len(line), 3):
        return _content(formula)
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0].strip(" *`:")
    return sentence or None


def last_formula(text: str) -> str | None:
    """The last formula between dollar signs or LaTeX brackets."""
    formula = _last(_FORMULA, text)
    return _content(formula) if formula else None


def last_number(text: str) -> str | None:
    """The last number, with its thousands commas.

    >>> last_number("from 3 to 1,204.5 dollars.")
    '1,204.5'
    """
    found = _last(_NUMBER, text)
    return found[0] if found else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text[-_TAIL:]), maxlen=1)), None)


def _content(formula: re.Match[str]) -> str | None:
    return next((group for group in formula.groups() if group), "").strip() or None
