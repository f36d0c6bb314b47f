r"""The number that an answer ends with, compared exactly.

A number is written with or without thousands commas, decimals, a sign, a currency or percent sign;
`3/4`, `1 1/2` and `\frac{3}{4}` are quotients. `29.00`, `29.` and `029` are 29, a clock's `9:00` is
9. Powers, exponents and number words are not computed: of `2^10` the number 10 is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from harness.scorers.hendrycks import last_boxed
from harness.scorers.thinking import before_next_question, visible_answer
from harness.types import Completion, Sample, Score

_CURRENCY = r"[$€£¥₹]"
# A minus after a digit, a letter or a bracket is a subtraction or a dash, not a sign.
_SIGN = rf"(?:(?<![\w)\]}}])[-−](?:\\?{_CURRENCY})?)?(?:(?<=[$€£¥₹])-)?"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{2,3}){0,8},[0-9]{3}(?![0-9])|[0-9]+)"
_TIME_OF_DAY = r"(?<![\w:])[0-9]{1,2}:[0-5][0-9](?![0-9:])"
_NUMBER = (
    rf"(?:{_TIME_OF_DAY}|{_SIGN}(?:[0-9]{{1,9}} )?[0-9]{{1,18}}/[0-9]{{1,18}}(?![0-9]|\.[0-9])"
    rf"|{_SIGN}(?:{_DIGITS}(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+))"
)
_FIND = re.compile(_NUMBER)
_MARKED = re.compile(rf"(?m)####[ \t]*\\?{_CURRENCY}?({_NUMBER})[ \t]*\\?%?\.?[ \t]*\r?$")
_FRACTION = re.compile(
    r"([-−]?)\\[dt]?frac\s*\{\s*([-−]?[0-9]{1,18})\s*\}\s*\{\s*([0-9]{1,18})\s*\}"
)
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*([0-9])\s*([0-9])(?![0-9])")
_MIXED = re.compile(r"(?<=[0-9])\s*\\[dt]?frac")
# The common case, from the end: no sign, nothing glued in front, no digit behind.
_SIMPLE = re.compile(
    r"(?s)(?:.*[^\w.,:/$€£¥₹^\-−\\{}])?[$€£¥₹]?"
    r"([0-9]{1,3}(?:,[0-9]{3}){1,8}(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?)[^0-9]*\Z"
)
# The 2 of "50 m^2" and of "cm}^{2}" is no number of the answer.
_POWER_OF_UNIT = re.compile(r"(?<=[A-Za-z}])\^(?:\{[0-9]\}|[0-9])(?![0-9])")
_NO_DIGITS = re.compile(r"[^0-9./:]+")
_LATEX_COMMA = re.compile(r"\{,\}|,\\!|(?<=[0-9])\\[,!](?=[0-9])")

# The last number of nearly every answer is in its last line; a match that starts this near to
# the cut may have lost its beginning there.
_TAIL, _MARGIN = 96, 32
_MOST_READ = 200_000


def number_in(text: str) -> str | None:
    r"""The number that a text states, in its plainest spelling; None where there is none.

    In this order: the first line `#### 18`, the last number in the last `\boxed`, the last number
    before the model writes on with a `Question:` of its own, the last number.

    >>> number_in("She pays $1,050.00."), number_in("10 - 5 = 5"), number_in("It is -5%")
    ('1050', '5', '-5')
    >>> number_in("6 * 3 = 18\n#### 18\n\nQuestion: 4 + 4"), number_in("1 1/2 cups")
    ('18', '1.5')
    """
    text = text[-_MOST_READ:]
    if "####" in text and (marked := _MARKED.search(text)):
        return plain_number(marked[1])
    before = before_next_question(text)
    if before != text and _last_number(before):
        text = before
    return (boxed_number(text) if "\\boxed" in text else None) or _last_number(text)


def boxed_number(text: str) -> str | None:
    r"""The last number in the last `\boxed`, None where there is none.

    >>> boxed_number(r"so \boxed{\$18} in 3 days"), boxed_number("18")
    ('18', None)
    """
    content = last_boxed(text)
    return None if content is None else _last_number(content)


def plain_number(number: str) -> str:
    """One spelling of a number as `number_in` finds it: equal numbers are equal strings.

    >>> [plain_number(n) for n in ("1,000", "029.50", "-0.0", "-$3", "2/4", "1/3")]
    ['1000', '29.5', '0', '-3', '0.5', '1/3']
    """
    negative = "-" in number or "−" in number
    if "/" in number:
        return _plain_quotient(number.lstrip("-−$€£¥₹\\"), negative)
    hours, _, minutes = _NO_DIGITS.sub("", number).partition(":")
    if minutes.strip("0"):
        return f"{int(hours)}:{minutes}"
    whole, _, decimals = hours.partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    plain = f"{whole}.{decimals}" if decimals else whole
    return f"-{plain}" if negative and plain != "0" else plain


def _plain_quotient(quotient: str, negative: bool) -> str:
    whole, _, fraction = quotient.rpartition(" ")
    above, below = (int(part) for part in fraction.split("/"))
    if below == 0:
        return fraction
    value = int(whole or 0) + Fraction(above, below)
    value = -value if negative else value
    places = next((n for n in range(19) if 10**n % value.denominator == 0), None)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    sign, digits = "-" if value < 0 else "", str(abs(int(value * 10**places)))
    digits = digits.zfill(places + 1)
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _last_number(text: str) -> str | None:
    tail = text[-_TAIL:]
    simple = _SIMPLE.match(tail)
    if simple and (simple.start(1) >= _MARGIN or len(tail) == len(text)):
        return plain_number(simple[1])
    width = _TAIL
    while True:
        found = None
        for match in _FIND.finditer(_read(text[-width:])):
            found = match
        if found is not None and (found.start() >= _MARGIN or width >= len(text)):
            return plain_number(found[0])
        if width >= len(text):
            return None
        width *= 8


def _read(text: str) -> str:
    r"""LaTeX spellings of commas and fractions as plain ones."""
    if "^" in text:
        text = _POWER_OF_UNIT.sub("", text)
    if "\\" not in text and "{" not in text:
        return text
    text = _LATEX_COMMA.sub(lambda match: "," if "," in match[0] else "", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    # "2\frac{1}{2}" is 2 1/2, and not 21/2.
    return _FRACTION.sub(r"\1\2/\3", _MIXED.sub(r" \\frac", text))


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberReader:
    """Compares the number read from the answer with the one read from the target.

    Thinking text is not read. No sum of rounding errors is forgiven: 0.333 is not 1/3.
    """

    name: str
    metric: str
    read: Callable[[str], str | None]
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        text = visible_answer(sample, completion)
        answer = None if text is None else self.read(text)
        expected = number_in(sample.target)
        return Score(
            value=float(answer is not None and answer == expected),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"read {answer}, expected {expected}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LastDigits:
    """The last run of digits on both sides, as the CS336 course reads GSM8K.

    `1,000` and `3,000` are the same 000 to it, and so are 2.50 and 50 (assignment 5, supplement).
    """

    name: str = "cs336_gsm8k"
    metric: str = "exact_match"
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        answer, expected = _last_digits(completion.text), _last_digits(sample.target)
        return Score(
            value=float(answer is not None and answer == expected),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"read {answer}, expected {expected}",
        )


def _last_digits(text: str) -> str | None:
    found = None
    for match in re.finditer(r"\d+", text):
        found = match[0]
    return found


NUMBER = NumberReader(name="number", metric="number_match", read=number_in)
BOXED_NUMBER = NumberReader(name="boxed_number", metric="boxed_match", read=boxed_number)
CS336_GSM8K = LastDigits()
