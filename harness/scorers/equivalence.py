"""Whether two short mathematical answers are equal, decided exactly where that is possible.

What is taken as equal: any spelling of the same value (fractions, decimals, percentages as 30 or
.3, roots, polynomials in any order), with or without its unit, but not two different units;
lists and sets in any order; tuples and intervals in their order and with their brackets; equations
up to sides and a factor; `x = 5` and `5`; `1 < x < 2` and `(1, 2)`. What is not: rounded numbers,
other letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.scorers import exact
from harness.scorers.answer_form import (
    MAX_LENGTH,
    Based,
    Form,
    Group,
    Matrix,
    Relation,
    Unread,
    Value,
    Words,
    clean,
    fold,
    form,
)
from harness.scorers.exact import TooHard

_BELOW = {"<": "()", "\\le": "[]"}
_ABOVE = (">", "\\ge")
_MOST = Value(exact.atom("infty"))
_LEAST = Value(exact.negate(_MOST.formula))
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


def decide(answer: str, gold: str) -> bool | None:
    r"""Whether `answer` equals `gold`; None where only a computer algebra system can tell.

    >>> decide(r"\dfrac{9}{12}", "0.75"), decide("x+h", "x+t"), decide("[1,2]", "(1,2)")
    (True, False, False)
    """
    if len(answer) > MAX_LENGTH:
        return False
    left, right = clean(answer), clean(gold)
    if left.replace(" ", "") == right.replace(" ", ""):
        return bool(left)
    if not left:
        return False
    left = _without_choice(left, right)
    try:
        answer_form, gold_form = form(left), form(right)
        if _same_words(answer_form, right) or _same_words(gold_form, left):
            return True
        return _same(answer_form, gold_form)
    except (TooHard, RecursionError):
        return None


_CHOICE = re.compile(r'"?\(([A-J])\)\s*[.:]?"?\s*(?=\S)(.*)|"?([A-J])\s*[.:]"?\s+(.*)', re.DOTALL)


def _without_choice(answer: str, gold: str) -> str:
    """`(C) 12` as the letter if the gold answer is one, else as what stands behind it."""
    choice = _CHOICE.fullmatch(answer)
    if choice is None:
        return answer
    letter, value = choice[1] or choice[3], choice[2] or choice[4] or ""
    is_letter = gold.strip('"() ') in set("ABCDEFGHIJ")
    return letter if is_letter else value.strip('"') or answer


def _same_words(words: Form, text: str) -> bool:
    return isinstance(words, Words) and words.text == fold(text)


def _same(answer: Form, gold: Form) -> bool | None:
    if isinstance(answer, Relation) or isinstance(gold, Relation):
        return _same_relation(answer, gold)
    if isinstance(answer, Value) and isinstance(gold, Value):
        return _same_value(answer, gold)
    if isinstance(answer, Group) and isinstance(gold, Group):
        return _same_group(answer, gold)
    if isinstance(answer, Group) and not answer.brackets and isinstance(gold, Value):
        return _all(_same(item, gold) for item in answer.items) if answer.items else False
    if isinstance(answer, Matrix) and isinstance(gold, Matrix):
        return _same_matrix(answer, gold)
    if isinstance(answer, Based) and isinstance(gold, Based):
        return answer == gold
    if isinstance(answer, Words) and isinstance(gold, Words):
        return answer == gold
    if isinstance(answer, Unread) or isinstance(gold, Unread):
        return _same_unread(answer, gold)
    return _same_kinds_apart(answer, gold)


def _same_unread(answer: Form, gold: Form) -> bool | None:
    if isinstance(answer, Unread) and isinstance(gold, Unread) and answer == gold:
        return True
    return None


def _same_kinds_apart(answer: Form, gold: Form) -> bool | None:
    """Forms of two kinds: a number is no tuple and no word; the rest is left open."""
    kinds = {type(answer), type(gold)}
    if any(isinstance(one, Group) and one.brackets == ":" for one in (answer, gold)):
        return None
    if isinstance(answer, Value) and isinstance(gold, Based):
        return _same_digits(answer, gold)
    if Matrix in kinds and kinds & {Value, Based}:
        numbers = [one for one in (answer, gold) if isinstance(one, Value)]
        return False if all(exact.constant(one.formula) is not None for one in numbers) else None
    if kinds <= {Value, Group} or (Words in kinds and kinds & {Value, Matrix, Based}):
        return False
    return None


def _same_digits(answer: Value, gold: Based) -> bool | None:
    """Whether a plain integer has the digits of a number in a base that it does not name."""
    value = exact.constant(answer.formula)
    return None if value is None else str(value) == gold.digits


def _same_value(answer: Value, gold: Value) -> bool | None:
    if answer.unit and gold.unit and answer.unit != gold.unit:
        return False
    equal = exact.same(answer.formula, gold.formula)
    if equal or (answer.unit == "%") == (gold.unit == "%"):
        return equal
    whole, part = (gold, answer) if answer.unit == "%" else (answer, gold)
    hundred = exact.multiply(whole.formula, exact.number(100))
    return exact.same(hundred, part.formula)


def _same_group(answer: Group, gold: Group) -> bool | None:
    if answer.brackets != gold.brackets:
        named = any(isinstance(item, Relation) for item in (*answer.items, *gold.items))
        return None if named else False
    if len(answer.items) != len(gold.items):
        return False
    if gold.brackets:
        return _all(_same(a, g) for a, g in zip(answer.items, gold.items, strict=True))
    return _same_in_any_order([*answer.items], [*gold.items])


def _same_in_any_order(answers: list[Form], golds: list[Form]) -> bool | None:
    undecided = False
    for gold in golds:
        verdicts = [_same(answer, gold) for answer in answers]
        if True in verdicts:
            del answers[verdicts.index(True)]
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _same_matrix(answer: Matrix, gold: Matrix) -> bool | None:
    if [len(row) for row in answer.rows] != [len(row) for row in gold.rows]:
        return False
    pairs = zip(answer.rows, gold.rows, strict=True)
    return _all(_same(a, g) for row, other in pairs for a, g in zip(row, other, strict=True))


def _same_relation(answer: Form, gold: Form) -> bool | None:
    for one, other in ((answer, gold), (gold, answer)):
        interval = _interval(one) if isinstance(other, Group) else None
        if interval is not None:
            return _same(interval, other)
    if not isinstance(gold, Relation):
        assert isinstance(answer, Relation)
        return _same_as_last_side(answer, gold)
    if not isinstance(answer, Relation):
        return _same_as_last_side(gold, answer) if gold.named else None
    if _is_assignment(answer) and _is_assignment(gold):
        name = _same(answer.sides[0], gold.sides[0])
        return _same(answer.sides[-1], gold.sides[-1]) if name is not False else False
    if len(answer.sides) == len(gold.sides) == 2:
        return _same_pair_of_sides(answer, gold)
    return True if _same_chain(answer, gold) else None


def _same_as_last_side(relation: Relation, other: Form) -> bool | None:
    """`x = 5` and `5`; also `2 + 3 = 5`, whose sides are all equal, but not `x + y = 5`."""
    if set(relation.operators) - {"=", "\\approx", ":="}:
        return None
    last = relation.sides[-1]
    equal = _same(last, other)
    if equal is False or relation.named:
        return equal
    return True if equal and _same(relation.sides[0], last) else None


def _interval(relation: Form) -> Group | None:
    """The interval of a letter between constants, or on one side of one."""
    if not isinstance(relation, Relation) or not {*relation.operators} <= {*_ABOVE, *_BELOW}:
        return None
    if relation.operators[0] in _ABOVE:
        turned = tuple(_FLIPPED[operator] for operator in reversed(relation.operators))
        relation = Relation(relation.sides[::-1], turned)
    sides, operators = [*relation.sides], [*relation.operators]
    if len(sides) == 2 and _is_letter(sides[0]):
        sides, operators = [_LEAST, *sides], ["<", *operators]
    elif len(sides) == 2:
        sides, operators = [*sides, _MOST], [*operators, "<"]
    if len(sides) != 3 or not {*operators} <= _BELOW.keys() or not _is_letter(sides[1]):
        return None
    return Group(_BELOW[operators[0]][0] + _BELOW[operators[1]][1], (sides[0], sides[2]))


def _is_letter(side: Form) -> bool:
    return isinstance(side, Value) and exact.is_letter(side.formula)


def _is_assignment(relation: Relation) -> bool:
    return relation.named and set(relation.operators) == {"="}


def _same_pair_of_sides(answer: Relation, gold: Relation) -> bool | None:
    """Equations and inequalities up to a factor, whose sign turns an inequality around."""
    left, right = _difference(answer), _difference(gold)
    if left is None or right is None:
        return None
    factor = exact.ratio(left, right)
    if factor is None:
        return None
    (one,), (other,) = answer.operators, gold.operators
    return one == (other if factor > 0 else _FLIPPED.get(other)) or (one == other == "=")


def _difference(relation: Relation) -> exact.Formula | None:
    left, right = relation.sides
    if not isinstance(left, Value) or not isinstance(right, Value):
        return None
    return exact.add(left.formula, exact.negate(right.formula))


def _same_chain(answer: Relation, gold: Relation) -> bool:
    if len(answer.sides) != len(gold.sides):
        return False
    turned = Relation(
        answer.sides[::-1], tuple(_FLIPPED.get(o, o) for o in reversed(answer.operators))
    )
    for chain in (answer, turned):
        if chain.operators == gold.operators and _all(
            _same(a, g) for a, g in zip(chain.sides, gold.sides, strict=True)
        ):
            return True
    return False


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    undecided = False
    for verdict in verdicts:
        if verdict is False:
            return False
        undecided = undecided or verdict is None
    return None if undecided else True
