r"""Answers in tags or boxes, as reward functions of reasoning models read them.

How an answer is compared with the reference is another matter: each of these graders is made with
a function of two texts that decides it (`same`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.scorers.hendrycks import last_boxed
from harness.types import Completion, Sample, Score

Same = Callable[[str, str], bool]

_CLOSED_THINKING = "</think> <answer>"
_OPEN, _CLOSE = "<answer>", "</answer>"


def tagged(text: str) -> str | None:
    r"""The answer of a text in the r1_zero format, None where the format is broken.

    The format is the exact `</think> <answer>` somewhere and `</answer>` somewhere; the answer is
    all that follows the last `<answer>`, with closing tags taken out, or what it boxes.

    >>> tagged("6 * 3 </think> <answer>18</answer>"), tagged("6 * 3 </think><answer>18</answer>")
    ('18', None)
    >>> tagged(r"so </think> <answer> \boxed{7} </answer>")
    '7'
    """
    if _CLOSED_THINKING not in text or _CLOSE not in text:
        return None
    answer = text.rpartition(_OPEN)[2].replace(_CLOSE, "")
    return (last_boxed(answer) or "") if "\\boxed" in answer else answer


@dataclass(frozen=True, slots=True, kw_only=True)
class FormReward:
    """1 for the right answer in the right form, 0 for everything else.

    The explanation holds the category: 1 form and answer right, 2 form right and answer wrong, 3
    form wrong. An answer in the wrong form cannot be read, so category 3 is the parse failures.
    """

    name: str
    metric: str
    read: Callable[[str], str | None]
    same: Same
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        answer = self.read(completion.text)
        right = answer is not None and self.same(answer, sample.target)
        category = 3 if answer is None else 1 if right else 2
        return Score(
            value=float(right),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"category {category}, expected {sample.target!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FormOnly:
    """1 where the form is right, whatever the answer."""

    name: str
    metric: str
    read: Callable[[str], str | None]
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        answer = self.read(completion.text)
        return Score(
            value=float(answer is not None),
            answer=answer,
            grader=self.name,
            version=self.version,
        )


def r1_zero(same: Same) -> FormReward:
    """The reward of prompt r1_zero (CS336 assignment 5), with `same(answer, target)` as judge."""
    return FormReward(name="r1_zero", metric="reward", read=tagged, same=same)


def question_only(same: Same) -> FormReward:
    r"""The reward of prompt question_only of the same course: the answer must be in a `\boxed`."""
    return FormReward(name="question_only", metric="reward", read=last_boxed, same=same)


R1_ZERO_FORMAT = FormOnly(name="r1_zero_format", metric="format_accuracy", read=tagged)
