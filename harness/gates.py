"""Gates: criteria that must hold for a fine-tune to pass, and what they are judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.compare import Comparison
from harness.criteria import (
    OF_INDICES,
    OF_TASKS,
    OF_TASKS_OUTSIDE,
    Criterion,
    Fact,
    check,
    criterion,
)
from harness.forgetting import Forgetting
from harness.task import Task
from harness.types import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A measure of a whole model, such as `aqi`: no question has a score that could be paired."""

    name: str
    metric: str
    base: float
    tuned: float
    base_run: str
    tuned_run: str

    @property
    def delta(self) -> float:
        return self.tuned - self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate as it was judged, with the value of each of its terms."""

    text: str
    holds: bool
    evidence: JSON


def words(domain: Sequence[Task], outside: Sequence[Task]) -> dict[str, Sequence[str]]:
    """What a criterion may say of each task: measure → its words."""
    known: dict[str, Sequence[str]] = {one.id: OF_TASKS for one in domain}
    known |= {one.id: OF_TASKS_OUTSIDE for one in outside}
    return known | {one.id: OF_INDICES for one in (*domain, *outside) if one.embedding}


def checked(texts: Sequence[str], known: Mapping[str, Sequence[str]]) -> tuple[Criterion, ...]:
    """Raises UsageError for what cannot be read, or asks for what will not be measured."""
    found = tuple(criterion(text) for text in texts)
    for one in found:
        check(one, known, "this evaluation")
    return found


def facts(
    comparison: Sequence[Comparison], lost: Sequence[Forgetting], indices: Sequence[Index]
) -> dict[str, Fact]:
    """What is known of each task, in the words of criteria."""
    kept = {one.name: one.excluded for one in lost}
    found: dict[str, Fact] = {}
    for one in comparison:
        fact: dict[str, float | bool] = {
            "better": one.verdict == "better",
            "worse": one.verdict == "worse",
            "value": one.tuned,
            "base": one.base,
            "delta": one.delta,
            "low": one.ci_low,
            "high": one.ci_high,
            "p": one.p_holm,
        }
        found[one.name] = fact | ({"kept": kept[one.name]} if one.name in kept else {})
    for index in indices:
        found[index.name] = {"value": index.tuned, "base": index.base, "delta": index.delta}
    return found


def judged(gates: Sequence[Criterion], known: Mapping[str, Fact]) -> tuple[Gate, ...]:
    return tuple(
        Gate(text=one.text, holds=one.holds(known), evidence=one.evidence(known)) for one in gates
    )
