"""GSM8K as lm-evaluation-harness 0.4.13 grades it: one number, strictly or flexibly found."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.types import Completion, Sample, Score

_FINAL_PERIOD = re.compile(r"\.$")
_NO_NUMBER = re.compile(r"[^-$0-9.,]")  # a character that no number of a last match may hold
# A last number is looked for from the end: most answers have one there, and many are long.
_TAIL = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberMatch:
    """Compares one number found by `pattern` (the first or the last match) with the target's.

    last: the pattern may match only characters of numbers (`-$0-9.,`).
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
        width = _TAIL
        while True:
            found = self._last(text, max(0, len(text) - width))
            if found is not None or width >= len(text):
                return found
            width *= 16

    def _last(self, text: str, start: int) -> str | None:
        """The last match behind `start`, which is moved to a place that no match goes across."""
        border = _NO_NUMBER.search(text, start) if start else None
        if start and border is None:
            return None
        found = None
        for match in self.pattern.finditer(text, border.end() if border else 0):
            found = match[0]
        return found


def _bare_number(text: str) -> str:
    # As the pattern `.*#### ` would have it, in which a long run of digits takes minutes.
    _, _, text = text.replace(",", "").replace("$", "").rpartition("#### ")
    return _FINAL_PERIOD.sub("", text).lower()


GSM8K_STRICT = NumberMatch(
    name="gsm8k_strict", metric="strict_match", pattern=re.compile(r"#### (-?[0-9.,]+)")
)
# The character behind the number is part of the pattern: without one, its last digit is lost.
GSM8K_COT_STRICT = NumberMatch(
    name="gsm8k_cot_strict",
    metric="strict_match",
    pattern=re.compile(r"The answer is (-?[0-9.,]+)."),
)
GSM8K_FLEXIBLE = NumberMatch(
    name="gsm8k_flexible",
    metric="flexible_extract",
    pattern=re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+"),
    last=True,
)
