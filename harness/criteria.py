"""Criteria over what was measured, as text: `delta(aqi) > 0 and monotone(aqi)`, `better(gsm8k)`.

A small language in Python's syntax, read by `ast` and never run: words of one measure each, joined
by and, or, not and comparisons with numbers. Ladders climb by it, and gates are written in it.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import UsageError, did_you_mean
from harness.types import JSON

# Word → whether it is a number, and what it says; `bench` prints it where a word is unknown.
WORDS = {
    "better": (False, "the verdict is better"),
    "worse": (False, "the verdict is worse"),
    "kept": (False, "a loss over the margin is excluded"),
    "rises": (False, "the verdict of the sweep is rises"),
    "monotone": (False, "no step of the sweep goes back"),
    "value": (True, "of the tuned model"),
    "base": (True, "of the base"),
    "delta": (True, "tuned minus base"),
    "low": (True, "lower end of the 95 % interval of delta"),
    "high": (True, "its upper end"),
    "p": (True, "adjusted over the table"),
}
OF_TASKS = ("better", "worse", "value", "base", "delta", "low", "high", "p")
OF_TASKS_OUTSIDE = (*OF_TASKS, "kept")
OF_SWEEPS = ("rises", "monotone", "value", "base", "delta", "low", "high", "p")
OF_INDICES = ("value", "base", "delta")

Fact = Mapping[str, float | bool]
"""What is known of one measure: word → value."""

_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_EXAMPLE = "for example `delta(aqi) > 0 and monotone(aqi)`, or `better(gsm8k)`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One word about one measure: `delta(aqi)`."""

    word: str
    measure: str

    @property
    def text(self) -> str:
        return f"{self.word}({self.measure})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """A criterion that was read and found well formed; `text` is as it was written."""

    text: str
    tree: ast.expr

    def terms(self) -> list[Term]:
        found = (_term(node) for node in ast.walk(self.tree) if isinstance(node, ast.Call))
        return list(dict.fromkeys(found))

    def holds(self, facts: Mapping[str, Fact]) -> bool:
        return bool(_value(self.tree, facts))

    def evidence(self, facts: Mapping[str, Fact]) -> JSON:
        """The value of each of its terms."""
        return {term.text: facts[term.measure][term.word] for term in self.terms()}


def criterion(text: str) -> Criterion:
    """Raises UsageError for what is not of the language, or says a number where yes or no must be.

    >>> criterion("better(gsm8k) and not worse('mmlu:medical')").terms()[1].text
    'worse(mmlu:medical)'
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        hint = "a name with `:` or `/` stands in quotes: `better('mmlu:medical')`"
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UsageError(f"the criterion `{text}` cannot be read: {said}", hint) from None
    if _is_number(tree, text):
        raise UsageError(
            f"the criterion `{text}` is a number, not yes or no", "compare it: `delta(aqi) > 0`"
        )
    return Criterion(text=text.strip(), tree=tree)


def check(one: Criterion, known: Mapping[str, Sequence[str]], where: str) -> None:
    """Raises UsageError for a measure that will not exist, or a word that it does not have.

    known: measure → its words. where: that the criterion belongs to, as the message names it.
    """
    for term in one.terms():
        if term.measure not in known:
            there = ", ".join(known) or "nothing"
            raise UsageError(
                f"`{one.text}`: {where} will not measure `{term.measure}`",
                did_you_mean(term.measure, known, f"it measures {there}"),
            )
        if term.word not in known[term.measure]:
            words = ", ".join(known[term.measure])
            raise UsageError(
                f"`{one.text}`: {where} has no `{term.word}` of `{term.measure}`",
                f"there are: {words}",
            )
    for term, number in _compared(one.tree):
        # Nearly always meant as points, and then never or always true.
        if set(known[term.measure]) >= set(OF_TASKS) and abs(number) > 1:
            raise UsageError(
                f"`{one.text}`: `{term.text}` is a share, at most 1, and is compared with "
                f"{number:g}",
                f"{number:g} points are {number / 100:g}",
            )


def _is_number(node: ast.expr, text: str) -> bool:
    """Whether a part is a number (or yes or no); raises for a part that is not of the language."""
    match node:
        case ast.BoolOp():
            for part in node.values:
                _require(part, text, number=False)
            return False
        case ast.UnaryOp(op=ast.Not()):
            _require(node.operand, text, number=False)
            return False
        case ast.UnaryOp(op=ast.USub()):
            _require(node.operand, text, number=True)
            return True
        case ast.Compare():
            for part in (node.left, *node.comparators):
                _require(part, text, number=True)
            if not all(type(op) in _COMPARE for op in node.ops):
                raise _foreign(node, text)
            return False
        case ast.Constant(value=value):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _foreign(node, text)
            return True
        case ast.Call():
            return _call(node, text)
    raise _foreign(node, text)


def _require(node: ast.expr, text: str, *, number: bool) -> None:
    if _is_number(node, text) is number:
        return
    part = ast.unparse(node)
    said = "yes or no, not a number" if number else "a number, not yes or no"
    cure = "write it alone, or with `not`" if number else f"compare it: `{part} > 0`"
    raise UsageError(f"`{text}`: `{part}` is {said}", cure)


def _call(node: ast.Call, text: str) -> bool:
    if not isinstance(node.func, ast.Name) or len(node.args) != 1 or node.keywords:
        raise _foreign(node, text)
    if not isinstance(node.args[0], ast.Name) and not _is_text(node.args[0]):
        raise _foreign(node, text)
    word = node.func.id
    if word not in WORDS:
        known = "; ".join(f"{name}: {what}" for name, (_, what) in WORDS.items())
        raise UsageError(f"`{text}`: unknown word `{word}`", did_you_mean(word, WORDS, known))
    return WORDS[word][0]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _foreign(node: ast.expr, text: str) -> UsageError:
    return UsageError(f"`{text}`: `{ast.unparse(node)}` cannot stand in a criterion", _EXAMPLE)


def _term(node: ast.Call) -> Term:
    assert isinstance(node.func, ast.Name)
    named = node.args[0]
    name = named.id if isinstance(named, ast.Name) else str(ast.literal_eval(named))
    return Term(word=node.func.id, measure=name)


def _value(node: ast.expr, facts: Mapping[str, Fact]) -> float | bool:
    match node:
        case ast.BoolOp():
            values = [bool(_value(part, facts)) for part in node.values]
            return all(values) if isinstance(node.op, ast.And) else any(values)
        case ast.UnaryOp():
            inner = _value(node.operand, facts)
            return not inner if isinstance(node.op, ast.Not) else -inner
        case ast.Compare():
            sides = [float(_value(part, facts)) for part in (node.left, *node.comparators)]
            steps = zip(node.ops, sides, sides[1:], strict=False)
            return all(_COMPARE[type(op)](a, b) for op, a, b in steps)
        case ast.Call():
            term = _term(node)
            return facts[term.measure][term.word]
        case ast.Constant():
            return float(ast.literal_eval(node))
    raise AssertionError(f"{ast.dump(node)} was let through")


def _compared(tree: ast.expr) -> Iterator[tuple[Term, float]]:
    """Terms with the numbers that they are compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            calls = [_term(side) for side in sides if isinstance(side, ast.Call)]
            for side in sides:
                if not any(isinstance(part, ast.Call) for part in ast.walk(side)):
                    yield from ((term, float(_value(side, {}))) for term in calls)
