"""How the Qwen2.5-Math evaluation finds an answer in a text and strips it to one spelling."""

from __future__ import annotations

import importlib
import re
from functools import lru_cache

from harness.errors import BenchError
from harness.scorers import mathd
from harness.scorers.hendrycks import brace_fractions

_LAST_NUMBER = re.compile(r"-?\d*\.?\d+")
_CHINESE = "答案是"
_BOLD_TEXT = re.compile(r"\\text\{(.*?)\}")
_MBOX = re.compile(r"\\mbox{.*?}")
_NAMES = ("x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to")
_ZERO_DECIMALS = (re.compile(r"(\d+)\.0*([^\d])"), re.compile(r"(\d+)\.0*$"))
_BARE_ROOT = re.compile(r"\\sqrt(\w+)")
_MAX_LENGTH = 2_000
_NUMBER_WORDS = frozenset(
    (
        *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
        *("eighteen", "nineteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy"),
        *("eighty", "ninety", "hundred", "thousand", "million", "billion", "point"),
    )
)


def extract(text: str, *, keep_units: bool = False) -> str:
    r"""The stripped answer of a text, '' where there is none.

    In this order: Minerva's closing sentence, the last `boxed`, "he answer is", "final answer is",
    its Chinese counterpart, the last number.

    >>> extract(r"so $x = \boxed{\dfrac12}$"), extract("The answer is 12 cm."), extract("4, or 5")
    ('\\frac{1}{2}', '12', '5')
    """
    found = re.sub(r"\n\s*", "", _found(text.replace("ки", "")))
    found = found.removeprefix(":").removesuffix(".").removesuffix("/")
    return strip(strip(found, keep_units=keep_units), keep_units=keep_units)


def _found(text: str) -> str:
    if "final answer is $" in text and "$. I hope" in text:
        return text.partition("final answer is $")[2].partition("$. I hope")[0].strip()
    if "boxed" in text:
        return _box(text.rpartition("boxed")[2])
    for phrase in ("he answer is", "final answer is"):
        if phrase in text:
            return text.rpartition(phrase)[2].strip()
    if _CHINESE in text:
        return text.split(_CHINESE)[1].strip().partition("\n\n")[0].strip()
    numbers = _LAST_NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else ""


def _box(after: str) -> str:
    """The braced content, up to the end where the brace does not close."""
    if not after.startswith("{"):
        return after.partition("$")[0].strip()
    depth = 1
    for position, character in enumerate(after[1:], 1):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return after[1:position]
    return after[1:]


@lru_cache(maxsize=8_192)
def strip(text: str, *, keep_units: bool = False) -> str:
    """One spelling of an answer, without units, names, percent signs and looks."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    if len(text) > _MAX_LENGTH:
        return text
    text = mathd.same_matrices_and_looks(text).replace("\\{", "{").replace("\\}", "}")
    text = mathd.without_trailing_text(text)
    if not keep_units:
        text = mathd.without_units(text)
    text = _without_marks(text)
    text = _without_words(_number_words(text))
    for pattern, new in zip(_ZERO_DECIMALS, (r"\1\2", r"\1"), strict=True):
        text = pattern.sub(new, text)
    if not text:
        return text
    text = mathd.without_name(f"0{text}" if text.startswith(".") else text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    return _slash_as_fraction(brace_fractions(text) or text)


def _without_marks(text: str) -> str:
    for mark in ("^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)"):
        text = text.replace(mark, "")
    return text


def _number_words(text: str) -> str:
    """`twenty one` as 21, and 007 as 7. Raises BenchError where word2number is missing for it."""
    if text.isdecimal():
        return str(int(text))
    if _NUMBER_WORDS.isdisjoint(text.lower().replace("-", " ").split()):
        return text
    try:
        number = importlib.import_module("word2number.w2n").word_to_num(text)
    except ImportError:
        raise BenchError(
            "the `qwen` grader needs word2number to read number words",
            "`pip install 'tunebench[math]'`",
        ) from None
    except (ValueError, IndexError, KeyError, TypeError):
        return text
    return str(number)


def _without_words(text: str) -> str:
    text = _BOLD_TEXT.sub(r"\1", text)
    for name in _NAMES:
        text = text.replace(name, "")
    text = text.replace("\\emptyset", "{}").replace("(-\\infty,\\infty)", "\\mathbb{R}")
    text = text.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = text.replace("infinity", "\\infty")
    if "\\infty" not in text:
        text = text.replace("inf", "\\infty")
    text = text.replace("+\\inity", "\\infty").replace("and", "").replace("\\mathbf", "")
    text = _MBOX.sub("", text)
    return text.replace("j", "i") if "j" in text and "i" not in text else text


def _slash_as_fraction(text: str) -> str:
    r"""`a/b` as `\frac{a}{b}` where each side is an integer or holds a root."""
    if text.count("/") != 1:
        return text
    above, below = text.split("/")
    sides = [side if "sqrt" in side else _integer(side) for side in (above, below)]
    if None in sides or text != "/".join(str(side) for side in sides):
        return text
    return f"\\frac{{{sides[0]}}}{{{sides[1]}}}"


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
