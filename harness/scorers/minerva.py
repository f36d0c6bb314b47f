r"""Minerva's exact match as lm-evaluation-harness 0.4.13 decides it (minerva_math 3.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.scorers.hendrycks import last_boxed
from harness.scorers.math_pool import Verdict, prepare, verdict
from harness.types import Completion, Sample, Score

_PREFIX = "Final Answer: The final answer is"
# The periods match any character but a newline, as in the published pattern.
_ANSWER = re.compile(re.escape(_PREFIX) + r"(.*?). I hope it is correct.")
_MAX_LENGTH = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MinervaMatch:
    """What stands between "Final Answer: The final answer is" and "I hope it is correct.",
    normalised as in appendix D of Lewkowycz et al. (2022), equal to the target as text or to sympy.

    The target is a solution with a `\\boxed` answer, or the answer alone.
    """

    name: str = "minerva"
    metric: str = "exact_match"
    version: int = 1

    def prepare(self) -> None:
        prepare("minerva")

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        self.prepare()
        answer = stated_answer(completion.text)
        boxed = last_boxed(sample.target) if "\\boxed" in sample.target else None
        gold = normalised(sample.target if boxed is None else boxed)
        found = Verdict(False, "no answer") if answer is None else _compare(answer, gold)
        return Score(
            value=float(found.equal),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"expected {gold!r}" + (f": {found.why}" if found.why else ""),
        )


def _compare(answer: str, gold: str) -> Verdict:
    if len(answer) > _MAX_LENGTH:
        return Verdict(answer.strip() == gold, "too long")
    plain = normalised(answer)
    if plain and plain == gold:
        return Verdict(True)
    return verdict("minerva", plain, gold)


def stated_answer(text: str) -> str | None:
    """The answer in Minerva's closing sentence, None without one.

    >>> stated_answer("Final Answer: The final answer is $7$. I hope it is correct.")
    '$7$'
    """
    text += "I hope it is correct."  # a text that was stopped before the sentence's end
    start = text.find(_PREFIX)
    while start >= 0:
        # Where the first of a line does not match, no other of that line does.
        match = _ANSWER.match(text, start)
        if match:
            return match[1].strip()
        end_of_line = text.find("\n", start)
        start = text.find(_PREFIX, end_of_line) if end_of_line >= 0 else -1
    return None


_WORDS = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units"),
    *("sue", "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds"),
    *("meters", "meals", "edges", "students", "childrentickets", "multiples"),
)
# lm-eval removes words and LaTeX in one list; their order decides what a removal joins.
_REMOVED = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units"),
    *("\\ldots", "sue", "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm"),
    *("pounds", "meters", "meals", "edges", "students", "childrentickets", "multiples"),
    *("\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}"),
    *("\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"),
)
_SUBSTITUTED = (
    *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", "")),
    *(("mbox", "text"), (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}")),
)
_WHOLE_WORDS = tuple(re.compile(rf"(?<!\\)\b{word}\b") for word in _WORDS)
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")
_REWRITTEN = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),
        (r"(\\text\{)(.*?)(\})", r"\2"),
        (r"(\\textbf\{)(.*?)(\})", r"\2"),
        (r"(\\overline\{)(.*?)(\})", r"\2"),
        (r"(\\boxed\{)(.*)(\})", r"\2"),
        (r"(frac)([^{])(.)", r"frac{\2}{\3}"),
        (r"(sqrt)(\[[^\]]*\])(\w)", r"\1\2{\3}"),
        (r"(sqrt)(?!\[)([^{])", r"sqrt{\2}"),
    )
)
_GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+")


def normalised(answer: str) -> str:
    r"""One spelling of an answer, without units and looks.

    >>> normalised(r"x = $\frac12\text{ cm}$"), normalised("1,234 units"), normalised("0,1")
    ('\\frac{1}{2}', '1234', '0,1')
    """
    answer = answer.rpartition("=")[2]
    for word in _WHOLE_WORDS:
        answer = word.sub("", answer)
    for old, new in _SUBSTITUTED:
        answer = answer.replace(old, new)
    for removed in _REMOVED:
        answer = _without(answer, removed)
    for pattern, new in _REWRITTEN:
        answer = pattern.sub(new, answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if _GROUPED.fullmatch(answer) else answer


def _without(answer: str, removed: str) -> str:
    if removed not in answer:
        return answer
    if not removed.isalpha():
        return answer.replace(removed, "")
    pieces = _COMMAND.split(answer)  # commands at odd places, so that "ft" leaves "\left" alone
    pieces[::2] = [piece.replace(removed, "") for piece in pieces[::2]]
    return "".join(pieces)


MINERVA = MinervaMatch()
