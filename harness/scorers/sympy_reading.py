"""sympy's `parse_expr`, which evaluates Python, kept to names of mathematics.

Only the worker process imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sympy
from sympy.parsing.sympy_parser import (
    implicit_multiplication_application,
    parse_expr,
    standard_transformations,
)

_FORBIDDEN = re.compile(r"__|[\"'\\@#;:{}\[\]`]|\.\s*[A-Za-z_]|\blambda\b|\bimport\b|\bfor\b")
_FUNCTIONS = ("sqrt", "cbrt", "root", "real_root", "gcd", "lcm", "simplify", "expand", "factor")


def _names() -> dict[str, Any]:
    """The values, functions and types of sympy; whatever else it exports (`preview`, `test`, …)
    becomes a symbol when it is named."""
    names = {
        name: value
        for name, value in vars(sympy).items()
        if isinstance(value, sympy.Basic)
        or (isinstance(value, type) and issubclass(value, sympy.Basic))
    }
    names.update({name: getattr(sympy, name) for name in _FUNCTIONS})
    return {**names, "__builtins__": {"max": sympy.Max, "min": sympy.Min, "abs": abs}}


_NAMES = _names()


def read_expression(text: str, *, implicit: bool = False) -> Any:
    """The expression; implicit: `2x` is a product. Raises ValueError for what is no formula, and
    whatever sympy raises."""
    if _FORBIDDEN.search(text):
        raise ValueError("not a formula")
    extra = (implicit_multiplication_application,) if implicit else ()
    return parse_expr(
        text, transformations=(*standard_transformations, *extra), global_dict=dict(_NAMES)
    )


def tried(step: Callable[[], Any]) -> Any:
    """What the step returns, None where it raises: sympy raises anything on foreign text."""
    try:
        return step()
    except Exception:  # noqa: BLE001 - there is no common type
        return None
