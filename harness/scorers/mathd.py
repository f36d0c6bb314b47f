"""Hendrycks' normaliser as PRM800K, Dr. GRPO and Qwen extend it: MathQA's units and matrices."""

from __future__ import annotations

import re
from functools import cache

from harness.scorers.hendrycks import brace_fractions

_UNITS = (
    "east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio"
    "|profit of rs|rd|o|gm|p . m|lb|tile|per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f ."
    "|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st|inches|noon|percent|by|gal|kmh|c"
    "|acre|rise|a . m|th|π r 2|sq|mark|l|toy|coin|sq . m|gallon|° f|profit|minw|yr|women|feet"
    "|am|pm|hr|cu cm|square|v â € ™|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour"
    "|minute|min|second|man|woman|sec|cube|mt|sq inch|mp|∏ cm ³|hectare|more|sec|unit|cu . m"
    "|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard|pure|year|increase|decrease|d"
    "|less|Surface|litre|pi sq m|s .|metre|meter|inch"
)
_ARRAY = re.compile(r"\\begin\{array\}\{.*?\}")
_TRAILING_TEXT = re.compile(r"\\text{.*?}$")
_WHOLE_TEXT = re.compile(r"^\\text\{(?P<text>.+?)\}$")
_LOOKS = (
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\neq", "\\ne"),
    ("\\leq", "\\le"),
    ("\\geq", "\\ge"),
    ("\\left", ""),
    ("\\right", ""),
)
_UNIT = "\\text{ "


def normalised(answer: str) -> str:
    r"""One spelling of an answer; without its wrapping `\text` alone where the rules fail.

    >>> normalised(r"\dfrac12\text{ cm}"), normalised("12 apples"), normalised("x = .5")
    ('\\frac{1}{2}', '12', '\\frac{1}{2}')
    """
    answer = answer.strip()
    wrapped = _WHOLE_TEXT.search(answer)
    answer = wrapped["text"].strip() if wrapped else answer
    stripped = _stripped(answer)
    return answer if stripped is None else stripped


def _stripped(text: str) -> str | None:
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = without_units(without_trailing_text(same_matrices_and_looks(text)))
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    text, mark, rest = text.partition(_UNIT)
    if mark and _UNIT in rest:
        return None
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = without_name(f"0{text}" if text.startswith(".") else text)
    braced = _brace_roots(text)
    if braced is None:
        return None
    fractions = brace_fractions(braced.replace(" ", ""))
    if fractions is None:
        return None
    return "\\frac{1}{2}" if fractions == "0.5" else _slash_as_fraction(fractions)


def same_matrices_and_looks(text: str) -> str:
    text = _ARRAY.sub(r"\\begin{pmatrix}", text).replace("\\end{array}", "\\end{pmatrix}")
    text = text.replace("bmatrix", "pmatrix")
    for old, new in _LOOKS:
        text = text.replace(old, new)
    return text


def without_trailing_text(text: str) -> str:
    r"""Without a closing `\text{…}`, if something remains."""
    return _TRAILING_TEXT.sub("", text).strip() or text


def without_units(text: str) -> str:
    """Without MathQA's unit words where no letter or digit touches them, in two passes.

    The words include single letters, so that `x + h` and `x + t` become the same.
    """
    if not any(character.isalpha() for character in text):
        return text
    for pattern in _unit_patterns() * 2:
        text = pattern.sub(r"\1\2", text) or text
    return text


@cache
def _unit_patterns() -> tuple[re.Pattern[str], ...]:
    singular = _UNITS.split("|")
    words = [*singular, *(f"{word}s" for word in singular)]
    return tuple(re.compile(rf"(^|\W){word}($|\W)") for word in words)


def without_name(text: str) -> str:
    """Without `x=` in front: one equals sign and at most two characters before it."""
    name, equals, value = text.partition("=")
    return value if equals and "=" not in value and len(name) <= 2 else text


def _brace_roots(text: str) -> str | None:
    r"""`\sqrt3` as `\sqrt{3}`; None where nothing follows a root."""
    head, *pieces = text.split("\\sqrt")
    if "" in pieces:
        return None
    braced = (piece if piece[0] == "{" else f"{{{piece[0]}}}{piece[1:]}" for piece in pieces)
    return "\\sqrt".join((head, *braced))


def _slash_as_fraction(text: str) -> str:
    match = re.fullmatch(r"(-?[0-9]+)/(-?[0-9]+)", text)
    if match is None or text != f"{int(match[1])}/{int(match[2])}":
        return text
    return f"\\frac{{{match[1]}}}{{{match[2]}}}"
