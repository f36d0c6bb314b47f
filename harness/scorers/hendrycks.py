"""MATH as lm-evaluation-harness 0.4.13 grades it: equal strings after a LaTeX clean-up."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.types import Completion, Sample, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class HendrycksMatch:
    """Compares the text between the first and the last `$` (else the whole output) as LaTeX.

    The target is the boxed answer. Both sides are normalised as strings; where one of them cannot
    be normalised, only equal strings count (lm-eval 0.4.13 hendrycks_math 1.0). boxed: what stands
    in the last box, if there is one, is the answer (lm-eval's aime24 and aime25 0.0).
    """

    name: str = "hendrycks"
    metric: str = "exact_match"
    boxed: bool = False
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        boxed = last_boxed(completion.text) if self.boxed else None
        answer = between_dollars(completion.text) if boxed is None else boxed
        return Score(
            value=float(same_latex(answer, sample.target)),
            answer=answer if answer.strip() else None,
            grader=self.name,
            version=self.version,
            explanation=f"expected {sample.target!r}",
        )


def between_dollars(text: str) -> str:
    """What stands between the first and the last dollar sign, else the whole text.

    >>> between_dollars("so $x = 2$ and $y = 3$.")
    'x = 2$ and $y = 3'
    """
    first, last = text.find("$"), text.rfind("$")
    return text if first == last else text[first + 1 : last]


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed`, None where there is none or its braces do not close.

    `\boxed 7$` without braces ends at the next dollar sign, and wins over braces elsewhere.

    >>> last_boxed(r"so $\boxed{1}$, no: $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    """
    _, bare, after = text.rpartition("\\boxed ")
    if bare:
        return after.partition("$")[0]
    _, mark, after = text.rpartition("\\boxed")
    if not mark or not after.startswith("{"):
        return None
    depth = 0
    for position, character in enumerate(after):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return after[1:position]
    return None


def same_latex(one: str, other: str) -> bool:
    r"""Whether two short LaTeX answers are the same string after normalisation.

    >>> same_latex(r"\dfrac12", "1/2"), same_latex("x=5", "5"), same_latex("0.50", "0.5")
    (True, True, False)
    """
    left, right = _normal_latex(one), _normal_latex(other)
    if left is None or right is None:
        return one == other
    return left == right


# In this order: a later replacement sees what an earlier one has joined.
_REPLACED_BEFORE_UNITS = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
# Percent signs twice: taking one out of `\\\%%` leaves another.
_REPLACED_AFTER_UNITS = (("\\%", ""), ("\\%", ""), (" .", " 0."), ("{.", "{0."))
_UNIT = "\\text{ "
_ROOT_OF_NOTHING = re.compile(r"\\sqrt(?:\\sqrt|\Z)")
_BARE_ROOT = re.compile(r"(?s)\\sqrt([^{])")


def _normal_latex(text: str) -> str | None:
    """One spelling of a short answer; None where the rules do not apply to it."""
    text = _replace(text, _REPLACED_BEFORE_UNITS)
    text, _, units = text.partition(_UNIT)
    if _UNIT in units:
        return None
    text = _replace(text, _REPLACED_AFTER_UNITS)
    if not text:
        return text
    if text.startswith("."):
        text = "0" + text
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        text = value
    if _ROOT_OF_NOTHING.search(text):
        return None
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    braced = brace_fractions(text)
    return None if braced is None else _as_fraction(braced)


def _replace(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def brace_fractions(text: str) -> str | None:
    r"""`\frac12` as `\frac{1}{2}`; the text itself where an argument is missing, None for `\frac`
    that nothing follows. The first defect from the left decides."""
    head, *pieces = text.split("\\frac")
    braced = [head]
    for piece in pieces:
        if not piece:
            return None
        if piece[0] == "{":
            braced.append(piece)
        elif len(piece) == 1:
            return text
        elif piece[1] == "{":
            braced.append(f"{{{piece[0]}}}{piece[1:]}")
        else:
            braced.append(f"{{{piece[0]}}}{{{piece[1]}}}{piece[2:]}")
    return "\\frac".join(braced)


def _as_fraction(text: str) -> str | None:
    """`a/b` of plain integers, and `0.5`, as LaTeX fractions; None for one slash without them."""
    if text == "0.5":
        return "\\frac{1}{2}"
    if text.count("/") != 1:
        return text
    try:
        above, below = (int(part) for part in text.split("/"))
    except ValueError:
        return None
    # int() also takes 03, +3 and 1_000, which are left as they stand.
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


HENDRYCKS = HendrycksMatch()
AIME = HendrycksMatch(name="aime", boxed=True)
