r"""Reads a short LaTeX formula (`\frac{3x}{2} - \sqrt{5}`) into an exact Formula.

A small hand-written parser: it evaluates nothing but numbers of limited size, so that what a
model wrote can be read safely in the main process.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from harness.scorers import exact
from harness.scorers.exact import Formula, TooHard

_TOKEN = re.compile(
    r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?|\.\d+|\\[A-Za-z]+|arcsin|arccos|arctan|sin|cos|tan|log|ln|exp|sqrt|pi"
    r"|\*\*|[A-Za-z]|\S)"
)
_FUNCTIONS = frozenset(
    f"\\{name}"
    for name in (
        *("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "lg"),
        *("arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
    )
)
_WORDS = frozenset(
    ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi")
)
_LETTERS = frozenset(
    f"\\{name}"
    for name in (
        *("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "phi", "varphi"),
        *("omega", "sigma", "rho", "tau", "psi", "infty", "pi", "Delta", "Omega", "ell", "zeta"),
    )
)
_TIMES = frozenset(("*", "\\cdot", "\\times", "\\ast"))
_OVER = frozenset(("/", "\\div"))
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_MAX_LENGTH = 300
_MAX_DEPTH = 30
_MAX_FACTORIAL = 100


def read_formula(text: str) -> Formula:
    r"""The formula that a text spells. Raises TooHard where it is not one that is decided here.

    >>> exact.constant(read_formula(r"1\frac{1}{2} + \sqrt{9}/2"))
    Fraction(3, 1)
    """
    if len(text) > _MAX_LENGTH:
        raise TooHard
    reader = _Reader(_TOKEN.findall(text))
    formula = reader.sum()
    if reader.peek():
        raise TooHard
    return formula


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [f"\\{token}" if token in _WORDS else token for token in tokens]
        self.position = 0
        self.depth = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise TooHard
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise TooHard

    def sum(self) -> Formula:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise TooHard
        total = self.signed()
        while self.peek() in ("+", "-"):
            minus = self.take() == "-"
            term = self.product()
            total = exact.add(total, exact.negate(term) if minus else term)
        self.depth -= 1
        return total

    def signed(self) -> Formula:
        if self.peek() in ("+", "-"):
            minus = self.take() == "-"
            term = self.product()
            return exact.negate(term) if minus else term
        return self.product()

    def product(self) -> Formula:
        total = self.factor()
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                total = exact.multiply(total, self.signed_factor())
            elif token in _OVER:
                self.take()
                total = exact.divide(total, self.signed_factor())
            elif self.starts_factor(token):
                if _is_number(token):
                    raise TooHard  # two numbers side by side mean nothing certain
                total = exact.multiply(total, self.factor())
            else:
                return total

    def signed_factor(self) -> Formula:
        if self.peek() == "-":
            self.take()
            return exact.negate(self.factor())
        return self.factor()

    def starts_factor(self, token: str) -> bool:
        return bool(token) and (
            token in _CLOSING
            or token in _LETTERS
            or token in _FUNCTIONS
            or token in ("\\frac", "\\sqrt", "\\binom")
            or token.isalnum()
            or token[0] == "."
        )

    def factor(self) -> Formula:
        base = self.base()
        if self.peek() == "!":
            self.take()
            base = _factorial(base)
        if self.peek() in ("^", "**"):
            self.take()
            base = exact.power(base, self.exponent())
        return base

    def exponent(self) -> Formula:
        if self.peek() == "-":
            self.take()
            return exact.negate(self.exponent())
        return self.argument()

    def base(self) -> Formula:
        token = self.take()
        if _is_number(token):
            return self.number(token)
        if token in _CLOSING:
            inner = self.sum()
            self.expect(_CLOSING[token])
            return inner
        if token == "\\frac":
            above = self.argument()
            return exact.divide(above, self.argument())
        if token == "\\sqrt":
            return self.root()
        if token == "\\binom":
            above = self.argument()
            return _binomial(above, self.argument())
        if token in _FUNCTIONS:
            return self.function(token)
        return self.letter(token)

    def number(self, token: str) -> Formula:
        value = Fraction(token)
        whole = value.denominator == 1 and "." not in token
        if whole and self.peek() == "\\frac":
            part = self.proper_fraction()
            if part is not None:
                return exact.number(value + part)
        if whole and _is_number(self.peek()) and self.tokens[self.position + 1 :][:1] == ["/"]:
            above, _, below = (self.take(), self.take(), self.take())
            if above.isdigit() and below.isdigit() and int(below) and int(above) < int(below):
                return exact.number(value + Fraction(int(above), int(below)))
            raise TooHard
        return exact.number(value)

    def proper_fraction(self) -> Fraction | None:
        """The fraction of a mixed number, where one follows; otherwise nothing is taken."""
        start = self.position
        self.take()
        above = exact.constant(self.argument())
        below = exact.constant(self.argument())
        if above is not None and below is not None and 0 < above < below:
            return above / below
        self.position = start
        return None

    def argument(self) -> Formula:
        """A braced group, or the one digit, letter or command that LaTeX would take."""
        token = self.peek()
        if _is_number(token) and len(token) > 1:
            if not token.isdigit():
                raise TooHard
            self.tokens[self.position : self.position + 1] = [token[0], token[1:]]
        if self.peek() == "\\frac" or token in _FUNCTIONS:
            raise TooHard
        if self.peek().isdigit():
            return exact.number(int(self.take()))
        return self.base()

    def root(self) -> Formula:
        degree = 2
        if self.peek() == "[":
            self.take()
            index = self.take()
            self.expect("]")
            if not index.isdigit() or not 2 <= int(index) <= 12:
                raise TooHard
            degree = int(index)
        return exact.root(self.argument(), degree)

    def function(self, name: str) -> Formula:
        subscript = exact.number(0)
        exponent = exact.number(1)
        if self.peek() == "_":
            self.take()
            subscript = self.argument()
        if self.peek() == "^":
            self.take()
            exponent = self.exponent()
            if exact.constant(exponent) == -1:
                raise TooHard  # an inverse function, not a reciprocal
        argument = self.function_argument()
        return exact.power(exact.closed(name, subscript, argument), exponent)

    def function_argument(self) -> Formula:
        if self.peek() in ("(", "{"):
            return self.base()
        total = self.factor()
        while self.starts_factor(self.peek()) and self.peek() not in (*_FUNCTIONS, "("):
            total = exact.multiply(total, self.factor())
        return total

    def letter(self, token: str) -> Formula:
        if token not in _LETTERS and not (len(token) == 1 and token.isalpha()):
            raise TooHard
        name = token.removeprefix("\\")
        if self.peek() == "_":
            self.take()
            name += f"_{exact.key(self.argument())}".replace("(", "").replace(")", "")
            return exact.atom(f"{name}")
        if self.peek() == "'":
            raise TooHard
        return exact.atom(name)


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or (token[:1] == "." and len(token) > 1)


def _factorial(formula: Formula) -> Formula:
    value = exact.constant(formula)
    if value is None or value.denominator != 1 or not 0 <= value <= _MAX_FACTORIAL:
        raise TooHard
    return exact.number(math.factorial(value.numerator))


def _binomial(above: Formula, below: Formula) -> Formula:
    n, k = exact.constant(above), exact.constant(below)
    if n is None or k is None or not (0 <= k <= n <= _MAX_FACTORIAL):
        raise TooHard
    if n.denominator != 1 or k.denominator != 1:
        raise TooHard
    return exact.number(math.comb(n.numerator, k.numerator))
