"""Where the final answer stands in a model's text, for graders without a rule of their own."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_BRACE = re.compile(r"\\[{}\\]|[{}]")
_JOINS = re.compile(
    r"(?:[\s$,;.:*]|\\[()\[\],; ]|\\text\{\s*(?:and|or)\s*\}|\band\b|\bor\b|[A-Za-z]\s*=)*\Z"
)
_AND = re.compile(r"[\s,]*(?:and|or)\s+(?:[A-Za-z]\s*=\s*)?\Z")
_JOINED_AT_MOST = 80
_BARE_AT_MOST = 200
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}")
_BARE = re.compile(
    r"\s*(?:(?:\\[A-Za-z]+|[A-Za-z](?![A-Za-z])|\b(?:pi|sqrt|sin|cos|tan|log|ln)\b|[^A-Za-z])+"
    r"(?:(?<=[\d}\])])(?:\s+[A-Za-z]{2,}\.?){1,2})?|[A-Za-z'’-]{2,}(?:\s+[A-Za-z'’-]{2,}){0,2})\s*"
)
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
    what follows the last "answer is", "answer:" or "####", the last formula, a text that is nothing
    but an answer, the last number. Where there are `<answer>` tags only what they enclose is read.

    >>> final_answer(r"so $\boxed{\frac{1}{2}}$ or $\boxed{3}$."), final_answer(r"2\sqrt{3} cm")
    ('\\frac{1}{2},3', '2\\sqrt{3} cm')
    >>> final_answer("3 + 4 = 7. The answer is $x = 7$."), final_answer("I get 12 or 13.")
    ('x = 7', '13')
    """
    if (end := text.rfind("</answer>")) >= 0 and (start := text.rfind("<answer>", 0, end)) >= 0:
        inside = text[start + len("<answer>") : end].strip()
        return _explicit_answer(inside) or inside[:_TAIL] or None
    return _explicit_answer(text) or _bare_answer(text) or last_number(text)


def _explicit_answer(text: str) -> str | None:
    return boxed_answer(text) or said_answer(text) or last_formula(text)


def _bare_answer(text: str) -> str | None:
    r"""The whole text where it is a formula with a word or two behind it, or a few words."""
    text = text[: _BARE_AT_MOST + 1].strip().rstrip(".")
    if len(text) > _BARE_AT_MOST or "\n" in text:
        return None
    return text if _BARE.fullmatch(_LATEX_TEXT.sub(r" \1 ", text)) else None


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
        if end > start:  # a box around the one just read
            continue
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
        return _list(_FORMULA.finditer(after[: max(len(line), formula.end())]), _JOINS)
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0].strip(" *`:")
    return sentence or None


def last_formula(text: str) -> str | None:
    """The last formula between dollar signs or LaTeX brackets, and those joined to it by `and`."""
    found = [*deque(_FORMULA.finditer(text[-_TAIL:]), maxlen=4)][::-1]
    return _list(found, _AND)


def last_number(text: str) -> str | None:
    """The last number, with its thousands commas.

    >>> last_number("from 3 to 1,204.5 dollars.")
    '1,204.5'
    """
    found = _last(_NUMBER, text)
    return found[0] if found else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text[-_TAIL:]), maxlen=1)), None)


def _list(formulas: Iterable[re.Match[str]], joins: re.Pattern[str]) -> str | None:
    """The first formula and those joined to it, as a list in the order of the text."""
    found: list[re.Match[str]] = []
    for formula in formulas:
        if found:
            first, second = sorted((found[-1], formula), key=lambda match: match.start())
            between = formula.string[first.end() : second.start()]
            if len(between) > _JOINED_AT_MOST or not joins.match(between):
                break
        found.append(formula)
    in_order = sorted(found, key=lambda match: match.start())
    return ",".join(content for match in in_order if (content := _content(match))) or None


def _content(formula: re.Match[str]) -> str | None:
    return next((group for group in formula.groups() if group), "").strip() or None
