"""Graders: pure functions from (sample, completion) to a Score, each one a frozen value.

They give the verdicts of lm-evaluation-harness 0.4.13 on every input, its oddities included, since
a number that is compared with a published one must be graded like it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from harness.errors import UsageError, did_you_mean
from harness.task import Scorer
from harness.types import Completion, Sample, Score

_IGNORED = tuple(re.compile(p) for p in (",", r"\$", r"(?s).*#### ", r"\.$"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberMatch:
    """Compares one number found by `pattern` (the first or the last match) with the target's.

    Both sides lose commas, dollar signs, everything up to `#### ` and a final period, in that
    order, as in the `regexes_to_ignore` of lm-eval's gsm8k 3.0.
    """

    name: str
    metric: str
    pattern: re.Pattern[str]
    last: bool = False
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        found = self._find(completion.text)
        reference = _bare_number(sample.target)
        answer = None if found is None else _bare_number(found)
        return Score(
            value=float(answer is not None and answer == reference),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"read {answer!r}, expected {reference!r}",
        )

    def _find(self, text: str) -> str | None:
        if not self.last:
            match = self.pattern.search(text)
            return match[match.re.groups] if match else None
        found = None
        for match in self.pattern.finditer(text):
            found = match[0]
        return found


def _bare_number(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceMatch:
    """The likeliest choice; the first of equals wins.

    by_length: each sum of log-probabilities is divided by the characters of its choice first,
    the delimiter not counted.
    """

    name: str
    metric: str
    by_length: bool = False
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        ranked = sorted(
            zip(sample.choices, completion.choice_logprobs, strict=True),
            key=lambda pair: -self._weight(*pair),
        )
        chosen, logprob = ranked[0]
        explanation = f"{chosen!r} at {logprob:.3f} nats"
        if len(ranked) > 1:
            explanation += f", next {ranked[1][0]!r} at {ranked[1][1]:.3f}"
        return Score(
            value=float(chosen == sample.target),
            answer=chosen,
            grader=self.name,
            version=self.version,
            explanation=explanation,
        )

    def _weight(self, choice: str, logprob: float) -> float:
        if not self.by_length:
            return logprob
        return logprob / len(choice) if choice else -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class HendrycksMatch:
    """Compares the text between the first and the last `$` (else the whole output) as LaTeX.

    The target is the boxed answer. Both sides are normalised as strings; where one of them cannot
    be normalised, only equal strings count (lm-eval 0.4.13 hendrycks_math 1.0).
    """

    name: str = "hendrycks"
    metric: str = "exact_match"
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        answer = between_dollars(completion.text)
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
    braced = _brace_fractions(text)
    return None if braced is None else _as_fraction(braced)


def _replace(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _brace_fractions(text: str) -> str | None:
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


GSM8K_STRICT = NumberMatch(
    name="gsm8k_strict", metric="strict_match", pattern=re.compile(r"#### (-?[0-9.,]+)")
)
GSM8K_FLEXIBLE = NumberMatch(
    name="gsm8k_flexible",
    metric="flexible_extract",
    pattern=re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+"),
    last=True,
)
CHOICE = ChoiceMatch(name="choice", metric="acc")
CHOICE_NORM = ChoiceMatch(name="choice_norm", metric="acc_norm", by_length=True)
HENDRYCKS = HendrycksMatch()

GRADERS: dict[str, Scorer] = {
    scorer.name: scorer for scorer in (GSM8K_STRICT, GSM8K_FLEXIBLE, HENDRYCKS)
}


def grade(name: str, output: str, target: str) -> Score:
    """What the named text grader gives to one output.

    Raises UsageError for a name that is not in GRADERS.

    >>> grade("gsm8k_strict", "3 * 6 = 18\\n#### 18", "... #### 18").value
    1.0
    >>> grade("gsm8k_flexible", "about $1,050.", "#### 1050").answer
    '1050'
    """
    if name not in GRADERS:
        known = ", ".join(f"`{known}`" for known in GRADERS)
        raise UsageError(
            f"unknown grader `{name}`", did_you_mean(name, GRADERS, f"there are {known}")
        )
    completion = Completion(request_id="", text=output, finish_reason="stop", prompt_tokens=0)
    return GRADERS[name](Sample(id="", input="", target=target), completion)
