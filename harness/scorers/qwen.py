"""The grader of the Qwen2.5-Math evaluation, which ASFT and DFT use too.

It takes 7300 and .73 for 73 (a percentage could be meant) and numbers within 1 in 10,000; its last
step asks sympy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.scorers import qwen_text
from harness.scorers.math_pool import Verdict, prepare, verdict
from harness.types import Completion, Sample, Score

_MAX_LENGTH = 2_000
_CHOICES = ("A", "B", "C", "D", "E")
_CHOICE = re.compile(r"\b(A|B|C|D|E)\b")
_LIST = re.compile(r"(\(|\[).+(\)|\])")
_BRACED_LIST = re.compile(r"\{.*,.*\}")
_PMATRIX = ("\\begin{pmatrix}", "\\end{pmatrix}")
_BMATRIX = ("\\begin{bmatrix}", "\\end{bmatrix}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenMatch:
    """Qwen's extraction and equality. keep_units: as for minerva_math there (Minerva OCW)."""

    name: str
    keep_units: bool = False
    metric: str = "acc"
    version: int = 1

    def prepare(self) -> None:
        prepare("qwen")

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        self.prepare()
        answer = qwen_text.extract(completion.text, keep_units=self.keep_units)
        gold = self._gold(sample.target)
        # A reference that is but a unit ("east") is emptied, and an empty answer is right then.
        found = compare(answer, gold) if answer or not gold else Verdict(False, "no answer")
        return Score(
            value=float(found.equal),
            answer=answer or None,
            grader=self.name,
            version=self.version,
            explanation=f"expected {gold!r}" + (f": {found.why}" if found.why else ""),
        )

    def _gold(self, target: str) -> str:
        if "boxed" in target:
            target = qwen_text.extract(target, keep_units=self.keep_units)
        elif self.keep_units:
            target = qwen_text.strip(target.strip("$"), keep_units=True)
        if self.keep_units:
            return target.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")
        return qwen_text.strip(target.strip("$"))


def compare(answer: str, gold: str) -> Verdict:
    """Whether two stripped answers are equal by Qwen's rules, the first that applies.

    >>> compare("73.007", "73").equal, compare("73.008", "73").equal, compare("7300", "73").equal
    (True, False, True)
    """
    if len(answer) > _MAX_LENGTH:
        return Verdict(answer.strip().lower() == gold.strip().lower(), "too long")
    asked: list[Verdict] = []

    def symbolic(one: str, other: str) -> bool:
        asked.append(verdict("qwen", one, other))
        return asked[-1].equal

    equal = _equal(answer, gold, symbolic)
    why = next((found.why for found in asked if found.why), "")
    return Verdict(equal, "" if equal else why)


Symbolic = Callable[[str, str], bool]


def _equal(answer: str, gold: str, symbolic: Symbolic) -> bool:
    if answer.strip().lower() == gold.strip().lower():
        return True
    if gold in _CHOICES and _choice(answer) == gold:
        return True
    if _same_number(answer, gold):
        return True
    if not answer:
        return False
    answer, gold = answer.strip(), gold.strip()
    if "pmatrix" in answer and "pmatrix" not in gold:
        gold = _as_pmatrix(gold)
    if _without_brackets(answer, gold):
        return True
    if _LIST.match(answer) and _LIST.match(gold):
        return _all_equal(answer[1:-1].split(","), gold[1:-1].split(","), symbolic)
    if _is_matrix(answer) and _is_matrix(gold):
        return _same_matrix(answer, gold, symbolic)
    return _same_equation(answer, gold, symbolic)


def _same_equation(answer: str, gold: str, symbolic: Symbolic) -> bool:
    if answer.count("=") == 1 and gold.count("=") == 1:
        one, other = _difference(answer), _difference(gold)
        return symbolic(one, other) or symbolic(f"-({one})", other)
    if _is_named(answer) and "=" not in gold:
        return _equal(answer.partition("=")[2], gold, symbolic)
    if _is_named(gold) and "=" not in answer:
        return _equal(answer, gold.partition("=")[2], symbolic)
    return symbolic(answer, gold)


def _choice(answer: str) -> str:
    answer = answer.strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    found = _CHOICE.findall(answer.upper())
    last = str(found[-1]) if found else answer.strip().strip(".")
    return last.rstrip(".").rstrip("/")


def _same_number(answer: str, gold: str) -> bool:
    value, expected = _number(answer), _number(gold)
    if value is None or expected is None:
        return False
    meant = (expected / 100, expected, expected * 100)
    return any(math.isclose(value, each, rel_tol=1e-4) for each in meant)


def _number(text: str) -> float | None:
    text = text.replace(",", "")
    percent = text.endswith("%")
    for digits, scale in ((text, 1), (text[:-1].removesuffix("\\"), 100 if percent else 0)):
        if scale:
            try:
                return float(digits) / scale
            except ValueError:
                pass
    return None


def _as_pmatrix(gold: str) -> str:
    found = (match.strip("{}") for match in _BRACED_LIST.findall(gold))
    return ", ".join(row.replace(",", "\\").join(_PMATRIX) for row in found)


def _without_brackets(answer: str, gold: str) -> bool:
    square = answer.startswith("[") and answer.endswith("]")
    round_ = answer.startswith("(") and answer.endswith(")")
    gold_round = gold.startswith("(") and gold.endswith(")")
    gold_square = gold.startswith("[") and gold.endswith("]")
    if (square and not gold_round) or (round_ and not gold_square):
        answer, gold = answer.strip("[]()"), gold.strip("[]()")
    removed = str.maketrans("", "", "{}()")
    return answer.translate(removed).lower() == gold.translate(removed).lower()


def _all_equal(answers: list[str], golds: list[str], symbolic: Symbolic) -> bool:
    return len(answers) == len(golds) and all(
        _equal(answer, gold, symbolic) for answer, gold in zip(answers, golds, strict=True)
    )


def _is_matrix(text: str) -> bool:
    begins, ends = zip(_PMATRIX, _BMATRIX, strict=True)
    return text.startswith(begins) and text.endswith(ends)


def _same_matrix(answer: str, gold: str, symbolic: Symbolic) -> bool:
    answers, golds = _rows(answer), _rows(gold)
    return len(answers) == len(golds) and all(
        _all_equal(one.split("&"), other.split("&"), symbolic)
        for one, other in zip(answers, golds, strict=True)
    )


def _rows(matrix: str) -> list[str]:
    inside = matrix[len(_PMATRIX[0]) : -len(_PMATRIX[1])]
    return [row.strip() for row in inside.split("\\\\") if row.strip()]


def _difference(equation: str) -> str:
    left, _, right = equation.partition("=")
    return f"{left.strip()} - ({right.strip()})"


def _is_named(equation: str) -> bool:
    name, equals, value = equation.partition("=")
    return bool(equals) and "=" not in value and len(name.strip()) <= 2


QWEN = QwenMatch(name="qwen")
QWEN_UNITS = QwenMatch(name="qwen_units", keep_units=True)
