r"""The shape of a short answer: a formula, a tuple, a set, a matrix, a relation or words.

`clean` removes what only changes the looks of LaTeX; `form` reads the rest into plain values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from harness.scorers.exact import Formula, TooHard
from harness.scorers.formula import read_formula
from harness.scorers.units import split_unit


@dataclass(frozen=True, slots=True)
class Value:
    """A formula with the unit that stood behind it ('' for none; '%' is one)."""

    formula: Formula
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Text that is compared without case, spaces and periods."""

    text: str


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a written base: 1202_3."""

    digits: str
    base: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several answers. brackets: '()' and so on for tuples and intervals, whose order counts;
    ':' for ratios;
    '' for lists, sets ('{}' and a list are the same) and unions, whose order does not."""

    brackets: str
    items: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Form, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain a = b < c: the operators between the sides."""

    sides: tuple[Form, ...]
    operators: tuple[str, ...]
    named: bool = False


@dataclass(frozen=True, slots=True)
class Unread:
    """What none of the other forms fits."""

    text: str


Form = Value | Words | Based | Group | Matrix | Relation | Unread

MAX_LENGTH = 1_000
_CACHED = 8_192

_SAME_LOOK = (
    ("\\displaystyle", ""),
    ("\\textstyle", ""),
    ("\\limits", ""),
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\dbinom", "\\binom"),
    ("\\tbinom", "\\binom"),
    ("{,}", ""),
    ("\\!", ""),
    ("\\$", "$"),
    ("\\%", "%"),
    ("\\mathbb{R}", "(-\\infty,\\infty)"),
    ("\\mathbb R", "(-\\infty,\\infty)"),
    ("\\langle", "("),
    ("\\rangle", ")"),
    ("\\lbrace", "«"),
    ("\\rbrace", "»"),
    ("\\{", "«"),
    ("\\}", "»"),
    ("\\lvert", "|"),
    ("\\rvert", "|"),
    ("\\geqslant", "\\ge "),
    ("\\leqslant", "\\le "),
    ("\\geq", "\\ge "),
    ("\\leq", "\\le "),
    ("\\neq", "\\ne "),
    ("\\gt", ">"),
    ("\\lt", "<"),
    ("\\varnothing", "\\emptyset"),
    ("\\bmod", "\\mod"),
    ("−", "-"),
    ("–", "-"),
    ("×", "\\times "),
    ("·", "\\cdot "),
    ("π", "\\pi "),
    ("∞", "\\infty "),
    ("√", "\\sqrt"),
    ("∪", "\\cup "),
    ("≤", "\\le "),
    ("≥", "\\ge "),
    ("≠", "\\ne "),
    ("°", "^\\circ"),
    ("²", "^2"),
    ("³", "^3"),
    ("**", "^"),
    ("`", ""),
)
_SIZES = re.compile(r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|bigg|Bigg)(?![a-zA-Z])\s*\.?")
_SPACES = re.compile(r"\\(?:quad|qquad|hspace\{[^}]*\}|phantom\{[^}]*\}|[ ,;:>])|~|\s+")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mbox|operatorname|mathit)\s*\{([^{}]*)\}"
)
_FONT = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathbb|mathcal|mathsf|overrightarrow|vec)(?=[\s{])")
_JOINING = re.compile(r'\s*,?\s*"\s*,?\s*(?:and|or)\s*"\s*|\s*,?\s+(?:and|or)\s+')
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|\\circ\b")
_THIN_COMMA = re.compile(r",\s*\\!\s*")
_DOLLAR = re.compile(r"(?<!\\)\$")
_REPEATING = re.compile(r"(\d{0,9})\.(\d{0,9})\\overline\s*\{?\s*(\d{1,9})\s*\}?")
_APPROXIMATELY = re.compile(r"\A\s*(?:\\approx(?![a-z])|≈)\s*")
_BOLD = re.compile(r"\A\*\*(.*)\*\*\Z")


def clean(text: str) -> str:
    r"""An answer without dollar signs, sizes, spacing and other looks; `"…"` marks its text.

    >>> clean(r"$\left( 3, \dfrac{\pi}{2} \right)$."), clean(r"5\text{ cm}")
    ('( 3, \\frac{\\pi}{2} )', '5" cm"')
    """
    text = text.strip().rstrip(".,;: ").strip()
    text = _BOLD.sub(r"\1", text)
    if "\\boxed{" in text and text.endswith("}"):
        text = text.partition("\\boxed{")[0] + text.partition("\\boxed{")[2][:-1]
    text = _THIN_COMMA.sub("", text)
    if len(_DOLLAR.findall(text)) % 2 == 0:  # around formulas; one alone is money
        text = _DOLLAR.sub("", text)
    for look, plain in _SAME_LOOK:
        if look in text:
            text = text.replace(look, plain)
    if "\\" in text:
        text = _SIZES.sub("", text)
        text = text.replace("\\\\", "\x00")
        text = _SPACES.sub(" ", text).replace("\x00", "\\\\")
        text = _TEXT.sub(_quoted, text)
        text = _REPEATING.sub(_as_fraction, _FONT.sub("", text))
    text = text.replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")
    text = _APPROXIMATELY.sub("", _JOINING.sub(",", text))
    return text.rstrip(" .,;:").lstrip(" ,;:") if text.strip(" .,;:$") else text.strip()


def _as_fraction(repeating: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as a quotient."""
    whole, digits, again = repeating.groups()
    below = (10 ** len(again) - 1) * 10 ** len(digits)
    above = int(f"{whole}{digits}{again}") - int(f"{whole}{digits}" or 0)
    return f"\\frac{{{above}}}{{{below}}}"


def _quoted(match: re.Match[str]) -> str:
    word = match[1].replace('"', "")
    return word if len(word.strip()) == 1 and word.strip().isalpha() else f'"{word}"'


@lru_cache(maxsize=_CACHED)
def form(text: str) -> Form:
    """The form of a cleaned answer."""
    text = text.strip()
    if letter := _CHOICE.fullmatch(text):
        return _value(letter[1])
    if builder := _BUILDER.fullmatch(text):
        return form(builder[1])
    return (
        _relation(text)
        or _collection(text)
        or _matrix(text)
        or _based(text)
        or _value_or_words(text)
    )


_CHOICE = re.compile(r'[("]*\s*([A-Z])\s*[)"]*(?:\s*\.)?')
_OPERATOR = re.compile(r"=|<|>|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|\\approx|\\equiv|:=")
_NAME = re.compile(
    r'(?:[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z0-9, ]*\))?|\\[a-z]+|"[^"]*"|[A-Z]{2,4}'
    r"|\([a-z](?:\s*,\s*[a-z])+\)|[a-z]\^\{-1\}\([a-z]\))\s*"
)
_BUILDER = re.compile(r"«\s*[a-z](?:\s*\\in(?![a-z])[^|:]*?)?\s*(?:\\mid(?![a-z])|\||:)(.+)»")
_IN_SET = re.compile(r"\A\s*\\?[A-Za-z]+\s*\\in(?![a-z])\s*")
_THOUSANDS = re.compile(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_GROUPED = re.compile(r'[-+]?\$?\s*\d{1,3}(?:,\d{3})+(?:\.\d+)?\s*(?:%|\$|".*"|[a-z ]{3,})?')
_MATRIX = re.compile(r"\\begin\{([pbBv]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_RATIO = re.compile(r"\s*[\w.\\{}^]+\s*(?::\s*[\w.\\{}^]+\s*)+")
_BASED = re.compile(r'"?(-?[0-9A-F]+(?:\.[0-9A-F]+)?)"?_(?:\{\s*"?(\w+)"?\s*\}|(\d))')


def _relation(text: str) -> Form | None:
    text = _IN_SET.sub("", text)
    parts, operators = _split(text, _OPERATOR)
    if not operators:
        return None
    if not all(part.strip() for part in parts) or len(split_list(text)) > 1:
        return None
    named = _NAME.fullmatch(parts[0].strip()) is not None
    return Relation(tuple(form(part) for part in parts), tuple(operators), named)


def _collection(text: str) -> Form | None:
    text = _IN_SET.sub("", text)
    if "\\cup" in text:
        parts, _ = _split(text, re.compile(r"\\cup(?![a-z])"))
        return Group("", tuple(form(part) for part in parts))
    if "\\pm" in text and text.count("\\pm") == 1:
        return Group("", (form(text.replace("\\pm", "+")), form(text.replace("\\pm", "-"))))
    if _GROUPED.fullmatch(text):
        return None
    items = split_list(text)
    if len(items) > 1:
        return _listed(items)
    if _RATIO.fullmatch(text):
        return Group(":", tuple(form(part) for part in text.split(":")))
    if text in ("\\emptyset", "«»", "« »"):
        return Group("", ())
    if text[:1] == "{" and text[-1:] == "}" and _closes_at_end(text):
        return _collection(text[1:-1])
    if text[:1] == "«" and text[-1:] == "»" and _closes_at_end(text):
        inside = text[1:-1]
        return None if "|" in inside or ":" in inside else _listed(split_list(inside))
    if text[:1] in "([" and text[-1:] in ")]" and _closes_at_end(text):
        items = split_list(text[1:-1])
        if len(items) > 1:
            return Group(text[0] + text[-1], tuple(form(item) for item in items))
    return None


def _listed(items: list[str]) -> Form:
    forms: list[Form] = []
    for item in items:
        one = form(item)
        spread = one.items if isinstance(one, Group) and not one.brackets else (one,)
        forms += [each for each in spread if each not in forms]
    return Group("", tuple(forms))


def _matrix(text: str) -> Form | None:
    match = _MATRIX.fullmatch(text)
    if match is None or match[1] == "vmatrix" or "\\begin" in match[2]:
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    return Matrix(tuple(tuple(form(cell) for cell in row.split("&")) for row in rows))


def _based(text: str) -> Form | None:
    match = _BASED.fullmatch(text.replace(" ", ""))
    return Based(match[1].lstrip("0"), match[2] or match[3]) if match else None


def _value_or_words(text: str) -> Form:
    if text.startswith('"') and text.endswith('"') and text.count('"') == 2:
        inside = text.strip('"').strip()
        if _LETTERS.fullmatch(inside):
            return Group("", tuple(form(item) for item in split_list(inside)))
        return _value_with_unit(inside) if inside[:1].isdigit() else Words(fold(inside))
    return _value_with_unit(text)


def _value_with_unit(text: str) -> Form:
    bare, unit = split_unit(text)
    bare = _DEGREES.sub("", bare)
    bare = _THOUSANDS.sub(lambda match: match[1].replace(",", ""), bare)
    if '"' not in bare and not _looks_like_words(bare):
        read = _value(bare, unit)
        if not isinstance(read, Unread):
            return read
    return Words(fold(text)) if _looks_like_words(text.replace('"', "")) else Unread(text)


def _value(text: str, unit: str = "") -> Form:
    try:
        return Value(read_formula(text), unit)
    except TooHard:
        return Unread(text)


_LETTERS = re.compile(r"[A-Z](?:\s*,\s*[A-Z])+")
_WORDS = re.compile(
    r"(?:(?:\d+ )?[A-Za-z]+\.?(?:[ '’-][A-Za-z]+\.?)*(?: \d+)?|\d{1,2}(?::\d\d)* *[ap]\.?m\.?)",
    re.I,
)
_TIME_OF_DAY = re.compile(r"\d *[ap]\.?m\.?\Z", re.IGNORECASE)
_NO_WORDS = frozenset(
    ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi")
)


def _looks_like_words(text: str) -> bool:
    if _WORDS.fullmatch(text.strip()) is None:
        return False
    words = re.findall(r"[A-Za-z]+", text)
    if ":" in text or _TIME_OF_DAY.search(text):
        return True
    return any(len(word) > 2 and word.lower() not in _NO_WORDS for word in words)


def fold(text: str) -> str:
    """Text without case, quotes, spaces, periods and hyphens.

    >>> fold('"1:03 p.m."')
    '1:03pm'
    """
    return re.sub(r"[\s.\"'’\-()]", "", text).casefold()


def split_list(text: str) -> list[str]:
    """The parts between commas and semicolons outside of all brackets."""
    if "," not in text and ";" not in text:
        return [text] if text.strip() else []
    return [part for part in _split(text, re.compile(r"[,;]"))[0] if part.strip()]


def _split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The parts between separators outside of all brackets, and the separators."""
    found = [match for match in separator.finditer(text) if _is_outside(text, match.start())]
    starts = [0, *(match.end() for match in found)]
    ends = [*(match.start() for match in found), len(text)]
    return [text[a:b] for a, b in zip(starts, ends, strict=True)], [match[0] for match in found]


def _is_outside(text: str, position: int) -> bool:
    before = text[:position]
    if before.count('"') % 2:
        return False
    opened = sum(before.count(bracket) for bracket in "([{«")
    opened += before.count("\\begin{")
    return opened == sum(before.count(bracket) for bracket in ")]}»") + before.count("\\end{")


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{«") - (character in ")]}»")
        if depth == 0:
            return position == len(text) - 1
    return False
