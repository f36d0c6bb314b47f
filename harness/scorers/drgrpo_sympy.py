"""The steps of the Dr. GRPO grader that need sympy. Only the worker process imports this module."""

from __future__ import annotations

import re
from functools import partial
from itertools import pairwise

import sympy
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from pylatexenc.latex2text import LatexNodes2Text

from harness.scorers.sympy_reading import read_expression, tried

_TEXT = re.compile(r"^\\text\{(?P<text>.+?)\}$")
_REPLACED = (
    ("\\%", "%"),
    ("\\$", "$"),
    ("$", ""),
    ("%", ""),
    (" or ", " , "),
    (" and ", " , "),
    ("million", "*10^6"),
    ("billion", "*10^9"),
    ("trillion", "*10^12"),
)
_UNITS = tuple(
    re.compile(rf"{unit}(es)?(s)? *(\^[0-9]+)?")
    for unit in (
        *("degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day"),
        *("week", "month", "year", "foot", "feet", "inch", "yard"),
    )
)
_DEGREES = re.compile(r"\^ *\\circ")
_THIN_COMMA = re.compile(r",\\! *")
_MIXED = re.compile(r"([0-9]) +([0-9])")
_THOUSANDS = re.compile(r"(\d)(,)(\d\d\d)($|\D)")
_SIGNS = (*(("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*")),)
_FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_BRACKETS = "()[]"
_NOT_EVALUATED = re.compile(r"\^\{|\^\(|\^[0-9]+\^|\^[0-9][0-9]+")
_CONFIG = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


def fast(answer: str, gold: str) -> bool:
    """The sympy grade: equal after its normalisation, or element-wise equal to sympy.

    Two plain fractions must be literally equal, and an integer is only equal to an integer.
    """
    expected, given = normalised(gold), normalised(answer)
    if expected == given:
        return True
    if not given:
        return False
    golds, answers = _elements(expected), _elements(given)
    if len(golds) > 1 and (expected[0] != given[0] or expected[-1] != given[-1]):
        return False
    return len(golds) == len(answers) and all(map(_same_element, golds, answers))


def slow(answer: str, gold: str) -> bool:
    """Besides `fast`, math-verify on both answers, unless one is long and repeats itself."""
    if fast(answer, gold):
        return True
    if any(len(text) > 128 and _repeats(text) for text in (answer, gold)):
        return False
    return bool(verify(_parsed(gold), _parsed(answer), timeout_seconds=None))


def normalised(text: str) -> str:
    """One spelling of an answer: no units, percent or dollar signs, LaTeX as plain text."""
    wrapped = _TEXT.search(text)
    text = wrapped["text"] if wrapped else text
    for old, new in _REPLACED:
        text = text.replace(old, new)
    for unit in _UNITS:
        text = unit.sub("", text)
    text = _DEGREES.sub("", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = _THIN_COMMA.sub("", text)
    text = _integer(text, text)
    if "\\" in text:
        text = tried(partial(_plain, text)) or text
    text = _MIXED.sub(r"\1+\2", re.sub("- *", "-", text))
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return str(int(float(text.replace(",", "")))) if _is_integer(text) else text


def _plain(latex: str) -> str:
    for old, new in (("\\tfrac", "\\frac"), ("\\dfrac", "\\frac"), ("\\frac", " \\frac")):
        latex = latex.replace(old, new)
    text = str(LatexNodes2Text().latex_to_text(latex))
    for sign, name in _SIGNS:
        text = text.replace(sign, name)
    return text.strip()


def _integer(text: str, otherwise: str) -> str:
    """An integer's digits for a float that is one (`3.0`, `1e3`)."""
    try:
        value = float(text)
        return str(round(value)) if abs(value - round(value)) <= 1e-7 else otherwise
    except (ValueError, OverflowError):
        return otherwise


def _is_integer(text: str) -> bool:
    return bool(_integer(_without_thousands(text), ""))


def _without_thousands(text: str) -> str:
    while (shorter := _THOUSANDS.sub(r"\1\3\4", text)) != text:
        text = shorter
    return text


def _elements(text: str) -> list[str]:
    text = _without_thousands(text)
    inside = text[1:-1]
    bracketed = len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS
    if bracketed and not any(bracket in inside for bracket in _BRACKETS):
        return [element.strip() for element in inside.split(",")]
    return [text] if text else []


def _same_element(gold: str, answer: str) -> bool:
    if _FRACTION.search(gold) and _FRACTION.search(answer):
        return gold == answer
    if _is_integer(gold) != _is_integer(answer):
        return False
    difference = f"({gold})-({answer})"
    letters = {c for c in difference.replace("sqrt", "").replace("frac", "") if c.isalpha()}
    if len(letters) > 2 or _NOT_EVALUATED.search(difference):
        return False
    return bool(tried(lambda: sympy.simplify(_read(difference)) == 0))


def _read(text: str) -> object:
    return read_expression(text.replace("^", "**"), implicit=True)


def _repeats(text: str) -> bool:
    """Whether more than a fifth of all substrings have occurred before."""
    suffixes = sorted(text[start:] for start in range(len(text)))
    repeated = sum(_shared(one, other) for one, other in pairwise(suffixes))
    return repeated * 2 / (len(text) * (len(text) + 1)) > 0.2


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    together = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(together) if a != b), min(len(one), len(other)))


def _parsed(answer: str) -> object:
    marked = answer if "$" in answer else f"${answer}$"
    return parse(
        marked, extraction_config=_CONFIG, fallback_mode="no_fallback", parsing_timeout=None
    )
