"""A table of comparisons in three plain sentences: what was gained, kept and lost."""

from __future__ import annotations

from collections.abc import Sequence

from harness.compare import Comparison, Verdict
from harness.forgetting import Forgetting, Group

_SAYING: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "no evidence": "no evidence of a change",
    "too few questions": "too few questions to tell",
}


def three_sentences(
    found: Sequence[Comparison], outside: Sequence[Forgetting]
) -> tuple[str, str, str]:
    """found: all comparisons of the table. outside: what was lost on benchmarks that the training
    was not for, or on all of them where its domain is not known."""
    return _gained(found), _kept(outside, known=len(outside) < len(found)), _lost(found, outside)


def is_worse(found: Sequence[Comparison]) -> bool:
    return any(one.verdict == "worse" for one in found)


def _gained(found: Sequence[Comparison]) -> str:
    said = [
        f"{text} on {_listed([_moved(one) for one in found if one.verdict == verdict])}"
        for verdict, text in _SAYING.items()
        if any(one.verdict == verdict for one in found)
    ]
    among = f", adjusted for {len(found)} comparisons" if len(found) > 1 else ""
    return f"The tuned model is {'; '.join(said)}{among}."


def _moved(one: Comparison) -> str:
    return f"{one.name} ({one.delta * 100:+.1f} points, {one.n:,} questions)"


def _kept(outside: Sequence[Forgetting], *, known: bool) -> str:
    if not outside:
        return (
            "No benchmark outside the training domain was compared, so nothing is known about "
            "what was forgotten."
        )
    over = f"a loss over {_points(outside[0].margin)}"
    safe = [one.name for one in outside if one.excluded]
    open_ = [
        f"{one.name} (it may be as much as {_points(max(0.0, one.loss_at_most))})"
        for one in outside
        if not one.excluded
    ]
    parts = [f"{over} is excluded on {_listed(safe)}"] if safe else []
    parts += [f"{'it' if safe else over} is not excluded on {_listed(open_)}"] if open_ else []
    text = "; ".join(parts)
    return f"Outside the training domain {text}." if known else f"{text[0].upper()}{text[1:]}."


def _lost(found: Sequence[Comparison], outside: Sequence[Forgetting]) -> str:
    if not outside:
        lost, n = sum(one.lost for one in found), sum(one.n for one in found)
        return f"Of all {n:,} questions {lost:,} are answered worse than before."
    gone = sum(round(one.lost_share * one.right_before) for one in outside if one.right_before)
    right = sum(one.right_before for one in outside)
    share = f" ({gone / right * 100:.1f} %)" if right else ""
    text = f"Of {right:,} questions that the base had right, {gone:,} are lost{share}"
    worst = worst_group(outside)
    return f"{text}." if worst is None else f"{text}; the worst part is {_described(worst)}."


def worst_group(outside: Sequence[Forgetting]) -> tuple[str, Group] | None:
    """The group that fell most, with its task; None where none fell."""
    falls = [(one.name, group) for one in outside for group in one.groups if group.delta < 0]
    return min(falls, key=lambda fall: fall[1].delta, default=None)


def _described(fall: tuple[str, Group]) -> str:
    task, group = fall
    certain = "" if group.ci_high < 0 else ", which may be chance"
    return (
        f"{task} {group.name}, {group.delta * 100:+.1f} points over {group.n} questions "
        f"({group.ci_low * 100:+.1f} to {group.ci_high * 100:+.1f}{certain})"
    )


def _points(share: float) -> str:
    text = f"{share * 100:.1f}".removesuffix(".0")
    return f"{text} point{'' if text == '1' else 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
