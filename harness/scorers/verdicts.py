"""The rules that need sympy. Only the worker process imports this module."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from math_verify import parse, verify
from sympy.parsing.latex import parse_latex

from harness.scorers import drgrpo_sympy
from harness.scorers.sympy_reading import read_expression, tried

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def math_rule(answer: str, gold: str) -> bool:
    """math-verify on two answers alone, without its rules for finding them in a text."""
    return bool(verify(_read(gold), _read(answer), timeout_seconds=None))


def _read(answer: str) -> object:
    flat = answer.replace("$", "").replace("\n", " ")
    return parse(f"${flat}$", fallback_mode="no_fallback", parsing_timeout=None)


def math_verify_rule(output: str, gold: str) -> bool:
    """math-verify's verdict on a whole output, with its own defaults."""
    marked = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
    return bool(
        verify(
            parse(marked, parsing_timeout=None),
            parse(output, parsing_timeout=None),
            timeout_seconds=None,
        )
    )


def minerva_rule(answer: str, gold: str) -> bool:
    """lm-eval 0.4.13 minerva_math: the difference of two parsed answers simplifies to zero."""
    difference = parse_latex(answer) - parse_latex(gold)
    return bool(sympy.simplify(difference) == 0)


def qwen_rule(answer: str, gold: str) -> bool:
    """The last step of Qwen2.5-Math: equal as sympy reads them, or as numbers to 1 in 10,000."""
    a, b = _read_leniently(answer), _read_leniently(gold)
    tests: tuple[Callable[[], object], ...] = (
        lambda: str(a) == str(b) or a == b,
        lambda: a.equals(b) or sympy.simplify(a - b) == 0,
        lambda: abs(a.lhs - a.rhs).equals(abs(b.lhs - b.rhs)),
        lambda: math.isclose(float(sympy.N(a)), float(sympy.N(b)), rel_tol=1e-4),
        lambda: a.shape == b.shape and _rounded(a).equals(_rounded(b)),
    )
    return any(tried(test) for test in tests)


def _read_leniently(text: str) -> Any:
    for read in (parse_latex, read_expression, latex2sympy):
        for spelling in (text.replace("\\\\", "\\"), text):
            found = tried(partial(read, spelling))
            if found is not None:
                return found
    return text


def _rounded(matrix: Any) -> Any:
    return matrix.applyfunc(lambda x: round(x, 3))


def warm_up(kind: str) -> None:
    """Takes the time that a first verdict costs before any child is forked."""
    rule = KINDS[kind]
    tried(partial(rule, "\\frac{x^2+x}{2}", "\\sin(2x)"))
    tried(partial(rule, "(1,\\sqrt{2})", "\\{1,2\\}"))


KINDS: dict[str, Callable[[str, str], bool]] = {
    "math": math_rule,
    "math_verify": math_verify_rule,
    "minerva": minerva_rule,
    "qwen": qwen_rule,
    "drgrpo_fast": drgrpo_sympy.fast,
    "drgrpo_slow": drgrpo_sympy.slow,
}
