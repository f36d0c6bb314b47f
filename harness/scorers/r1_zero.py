r"""The rewards of prompts r1_zero and question_only (CS336 assignment 5).

The published r1_zero wants `</think> <answer>` to the letter, takes text behind the closing tag for
a part of the answer, and compares with drgrpo's fast rules, for which `x + h` is `x + t`. Beside it
stands a repaired one.
"""

from __future__ import annotations

from harness.scorers import drgrpo, math
from harness.scorers.extraction import boxed_answer, final_answer
from harness.scorers.tags import FormReward, question_only, r1_zero


def answer_in_tags(text: str) -> str | None:
    r"""What the last answer tag or the last box in it holds; without a tag, the final answer.

    >>> answer_in_tags("</think>\n<answer> $7$ </answer>, I think"), answer_in_tags("It is 7.")
    ('$7$', '7')
    """
    _, tag, behind = text.rpartition("<answer>")
    if not tag:
        return final_answer(text)
    inside = behind.partition("</answer>")[0].strip()
    return boxed_answer(inside) or inside or None


def _same_fast(answer: str, target: str) -> bool:
    return drgrpo.compare(answer, target, slow=False).equal


def _same_strict(answer: str, target: str) -> bool:
    return math.compare(answer, math.gold_answer(target)).equal


R1_ZERO = r1_zero(_same_fast)
QUESTION_ONLY = question_only(_same_fast)
R1_ZERO_STRICT = FormReward(
    name="r1_zero_strict", metric="acc_strict", read=answer_in_tags, same=_same_strict
)
