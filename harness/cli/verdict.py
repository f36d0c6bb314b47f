"""How a verdict with what was lost is printed: `bench compare --margin`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli import output

if TYPE_CHECKING:
    from harness.forgetting import Forgetting
    from harness.types import JSON

WORST_GROUPS = 5
SOME_QUESTIONS = 10


def forgetting_json(lost: Sequence[Forgetting]) -> list[JSON]:
    from harness.forgetting import as_json

    return [as_json(one) for one in lost]


def show_forgetting(lost: Sequence[Forgetting], format: str) -> None:
    """Non-inferiority per task, then the worst groups and some questions that were lost."""
    print("\n" + output.render(*forgetting_table(lost), format))
    if any(one.groups for one in lost):
        print("\n" + output.render(*group_table(lost), format))
    if any(one.lost for one in lost):
        print("\n" + output.render(*question_table(lost), format))


def forgetting_table(lost: Sequence[Forgetting]) -> tuple[list[str], list[list[object]]]:
    columns = ["task", "n", "delta", "a loss over (points)", "is", "p", "loss at most"]
    columns += ["right before", "lost of them", "95 % interval"]
    return columns, [
        [
            *(one.name, one.n, f"{one.delta:+.4f}", f"{one.margin * 100:g}"),
            "excluded" if one.excluded else "not excluded",
            *(f"{one.p:.2g}", f"{max(0.0, one.loss_at_most) * 100:.1f} points", one.right_before),
            "" if one.right_before == 0 else f"{one.lost_share:.4f}",
            f"{one.lost_low:.4f} to {one.lost_high:.4f}",
        ]
        for one in lost
    ]


def group_table(lost: Sequence[Forgetting]) -> tuple[list[str], list[list[object]]]:
    columns = ["task", "worst parts", "n", "base", "tuned", "delta", "interval (all at once)"]
    return columns, [
        [
            *(one.name, group.name, group.n, group.base, group.tuned, f"{group.delta:+.4f}"),
            f"{group.ci_low:+.4f} to {group.ci_high:+.4f}",
        ]
        for one in lost
        for group in one.groups[:WORST_GROUPS]
    ]


def question_table(lost: Sequence[Forgetting]) -> tuple[list[str], list[list[object]]]:
    columns = ["task", "question lost", "part", "target", "base", "tuned"]
    return columns, [
        [one.name, q.id, q.group, _short(q.target), _short(q.base_answer), _short(q.tuned_answer)]
        for one in lost
        for q in one.lost[:SOME_QUESTIONS]
    ]


def _short(text: str | None, most: int = 40) -> str:
    text = text or ""
    return text if len(text) <= most else f"{text[: most - 1]}…"
