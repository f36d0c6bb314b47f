"""Exact algebra on short formulas: sums of products over a common denominator, no rounding.

A monomial maps atoms to exponents. Atoms are letters, `pi`, `i`, prime numbers (with exponents
between 0 and 1, so that every root of a rational has one form) and functions that stay closed,
such as `sin(x)`. Without closed functions two formulas are equal if and only if their cross
products have the same terms; with them, only equality is certain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

Monomial = tuple[tuple[str, Fraction], ...]
Terms = dict[Monomial, Fraction]

_MAX_TERMS = 60
_MAX_PRODUCTS = 1_500
_MAX_BITS = 2_000
_MAX_POWER = 300
_LARGEST_PRIME_TRIED = 2_000


class TooHard(Exception):  # noqa: N818 - an outcome, not an error
    """The formula is outside of what is decided here."""


@dataclass(frozen=True, slots=True)
class Formula:
    """The quotient of two sums of terms; `below` is never empty."""

    above: Terms
    below: Terms


def number(value: Fraction | int) -> Formula:
    value = Fraction(value)
    _check_size(value)
    return Formula({(): value} if value else {}, _ONE)


def atom(name: str) -> Formula:
    return Formula({((name, Fraction(1)),): Fraction(1)}, _ONE)


def closed(function: str, *arguments: Formula) -> Formula:
    """A function of formulas as one atom: equal only where the arguments are written alike."""
    return atom(f"{function}({';'.join(key(argument) for argument in arguments)})")


def add(one: Formula, other: Formula) -> Formula:
    if one.below == other.below:
        return Formula(_sum(one.above, other.above), one.below)
    above = _sum(_product(one.above, other.below), _product(other.above, one.below))
    return Formula(above, _product(one.below, other.below))


def negate(formula: Formula) -> Formula:
    return Formula({term: -factor for term, factor in formula.above.items()}, formula.below)


def multiply(one: Formula, other: Formula) -> Formula:
    return Formula(_product(one.above, other.above), _product(one.below, other.below))


def divide(one: Formula, other: Formula) -> Formula:
    """Raises TooHard for a division by zero."""
    if not other.above:
        raise TooHard
    if len(other.above) == 1 and other.below == _ONE:
        return multiply(one, _inverse_of_one_term(other.above))
    return Formula(_product(one.above, other.below), _product(one.below, other.above))


def power(base: Formula, exponent: Formula) -> Formula:
    """base ^ exponent; a closed atom where the exponent is no number or the root stays open."""
    value = constant(exponent)
    if value is None:
        return closed("power", base, exponent)
    if value.denominator == 1 and abs(value) > _MAX_POWER:
        return closed("power", base, exponent)
    if value.denominator == 1:
        return _whole_power(base, value.numerator)
    if value.denominator > 12:
        raise TooHard
    return _whole_power(root(base, value.denominator), value.numerator)


def root(formula: Formula, degree: int) -> Formula:
    """The principal root: of rationals and of single letters exactly, else a closed atom."""
    value = constant(formula)
    if value is not None:
        return _root_of_rational(value, degree)
    terms = [*formula.above]
    if len(terms) == 1 and formula.below == _ONE and _is_plain_letter(terms[0]):
        letter = Formula({((terms[0][0][0], Fraction(1, degree)),): Fraction(1)}, _ONE)
        return multiply(letter, _root_of_rational(formula.above[terms[0]], degree))
    return closed(f"root{degree}", formula)


def constant(formula: Formula) -> Fraction | None:
    """The value of a formula that is a rational number."""
    if not formula.above:
        return Fraction(0)
    if formula.above.keys() == {()} and formula.below.keys() == {()}:
        return formula.above[()] / formula.below[()]
    return None


def is_letter(formula: Formula) -> bool:
    terms = [*formula.above.items()]
    return (
        formula.below == _ONE
        and len(terms) == 1
        and terms[0][1] == 1
        and _is_plain_letter(terms[0][0])
    )


def same(one: Formula, other: Formula) -> bool | None:
    """Whether two formulas are equal; None where closed functions leave it open."""
    left = _product(one.above, other.below)
    right = _product(other.above, one.below)
    if left == right:
        return True
    return None if _has_closed(left) or _has_closed(right) else False


def ratio(one: Formula, other: Formula) -> Fraction | None:
    """The number c with one = c * other for every value of the letters, None if there is none."""
    left = _product(one.above, other.below)
    right = _product(other.above, one.below)
    if not left or left.keys() != right.keys():
        return None
    ratios = {left[term] / right[term] for term in left}
    return ratios.pop() if len(ratios) == 1 else None


def key(formula: Formula) -> str:
    """One spelling of a formula, the same for formulas with equal terms."""
    return f"{_spelled(formula.above)}/{_spelled(formula.below)}"


_ONE: Terms = {(): Fraction(1)}


def _spelled(terms: Terms) -> str:
    return "+".join(sorted(f"{factor}{term}" for term, factor in terms.items()))


def _has_closed(terms: Iterable[Monomial]) -> bool:
    return any("(" in name for term in terms for name, _ in term)


def _is_plain_letter(term: Monomial) -> bool:
    return len(term) == 1 and term[0][1] == 1 and term[0][0].isalpha() and term[0][0] != "i"


def _check_size(value: Fraction) -> None:
    if value.numerator.bit_length() > _MAX_BITS or value.denominator.bit_length() > _MAX_BITS:
        raise TooHard


def _sum(one: Terms, other: Terms) -> Terms:
    total = dict(one)
    for term, factor in other.items():
        together = total.get(term, 0) + factor
        if together:
            total[term] = Fraction(together)
        else:
            del total[term]
    if len(total) > _MAX_TERMS:
        raise TooHard
    return total


def _product(one: Terms, other: Terms) -> Terms:
    if one is _ONE or one == _ONE:
        return other
    if other is _ONE or other == _ONE:
        return one
    if len(one) * len(other) > _MAX_PRODUCTS:
        raise TooHard
    total: Terms = {}
    for term, factor in one.items():
        for other_term, other_factor in other.items():
            joint, extra = _joined(term, other_term)
            value = factor * other_factor * extra
            _check_size(value)
            together = total.get(joint, 0) + value
            total[joint] = Fraction(together)
    product = {term: factor for term, factor in total.items() if factor}
    if len(product) > _MAX_TERMS:
        raise TooHard
    return product


def _joined(one: Monomial, other: Monomial) -> tuple[Monomial, Fraction]:
    if not one or not other:
        return one or other, Fraction(1)
    exponents = dict(one)
    for name, exponent in other:
        exponents[name] = exponents.get(name, Fraction(0)) + exponent
    return _settled(exponents)


def _settled(exponents: dict[str, Fraction]) -> tuple[Monomial, Fraction]:
    """A monomial in its one form, and the number that it sheds (i * i = -1, √2 * √2 = 2)."""
    extra = Fraction(1)
    for name, exponent in tuple(exponents.items()):
        if name == "i":
            extra *= (1, 1, -1, -1)[int(exponent) % 4]
            exponents[name] = Fraction(int(exponent) % 2)
        elif name.isdigit():
            whole = exponent.numerator // exponent.denominator
            extra *= Fraction(int(name)) ** whole
            exponents[name] = exponent - whole
    return tuple(sorted((name, e) for name, e in exponents.items() if e)), extra


def _inverse_of_one_term(terms: Terms) -> Formula:
    ((term, factor),) = terms.items()
    turned, extra = _settled({name: -exponent for name, exponent in term})
    return Formula({turned: extra / factor}, _ONE)


def _whole_power(base: Formula, exponent: int) -> Formula:
    if abs(exponent) > _MAX_POWER:
        raise TooHard
    if exponent < 0:
        return _whole_power(divide(number(1), base), -exponent)
    if len(base.above) == 1 and base.below == _ONE:
        return _power_of_one_term(base.above, exponent)
    result = number(1)
    square = base
    while exponent:
        if exponent & 1:
            result = multiply(result, square)
        exponent >>= 1
        if exponent:
            square = multiply(square, square)
    return result


def _power_of_one_term(terms: Terms, exponent: int) -> Formula:
    ((term, factor),) = terms.items()
    if max(factor.numerator.bit_length(), factor.denominator.bit_length()) * exponent > _MAX_BITS:
        raise TooHard
    raised, extra = _settled({name: e * exponent for name, e in term})
    value = factor**exponent * extra
    _check_size(value)
    return Formula({raised: value}, _ONE)


def _root_of_rational(value: Fraction, degree: int) -> Formula:
    if value < 0:
        if degree != 2:
            raise TooHard
        return multiply(atom("i"), _root_of_rational(-value, degree))
    if value == 0:
        return number(0)
    above = _root_of_whole(value.numerator, degree)
    return divide(above, _root_of_whole(value.denominator, degree))


def _root_of_whole(value: int, degree: int) -> Formula:
    result = number(1)
    for prime, times in _prime_factors(value):
        whole, rest = divmod(times, degree)
        result = multiply(result, number(prime**whole))
        if rest:
            part = Formula({((str(prime), Fraction(rest, degree)),): Fraction(1)}, _ONE)
            result = multiply(result, part)
    return result


def _prime_factors(value: int) -> list[tuple[int, int]]:
    factors = []
    prime = 2
    while prime * prime <= value:
        times = 0
        while value % prime == 0:
            value //= prime
            times += 1
        if times:
            factors.append((prime, times))
        prime += 1 if prime == 2 else 2
        if prime > _LARGEST_PRIME_TRIED:
            break
    if value > 1:
        if value > _LARGEST_PRIME_TRIED**2:
            raise TooHard
        factors.append((value, 1))
    return factors
