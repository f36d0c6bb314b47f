"""Criteria: what may be written, what is refused, and what they say."""

from __future__ import annotations

import pytest

from harness.criteria import OF_SWEEPS, OF_TASKS, check, criterion
from harness.errors import UsageError

FACTS = {
    "aqi": {"delta": 0.2, "monotone": True, "p": 0.01},
    "mmlu:medical": {"delta": -0.03, "better": False, "worse": True, "p": 0.02},
}
KNOWN = {"aqi": OF_SWEEPS, "gsm8k": OF_TASKS}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("delta(aqi) > 0 and monotone(aqi)", True),
        ("delta(aqi) > 0.3 or worse('mmlu:medical')", True),
        ("not worse('mmlu:medical')", False),
        ("-0.05 < delta('mmlu:medical') <= -0.03", True),
        ("(better('mmlu:medical') or monotone(aqi)) and p(aqi) < .05", True),
        ("delta('mmlu:medical') > delta(aqi)", False),
    ],
)
def test_a_criterion_says_what_it_reads_like(text: str, holds: bool) -> None:
    assert criterion(text).holds(FACTS) is holds


def test_the_evidence_is_the_value_of_each_term() -> None:
    one = criterion("delta(aqi) > 0 and monotone(aqi) and not delta(aqi) > 9")
    assert one.evidence(FACTS) == {"delta(aqi)": 0.2, "monotone(aqi)": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "cannot stand in a criterion"),
        ("open('x')", "unknown word `open`"),
        ("delta.__class__", "cannot stand in a criterion"),
        ("[1 for x in y]", "cannot stand in a criterion"),
        ("delta(aqi, gsm8k) > 0", "cannot stand in a criterion"),
        ("delta(aqi) ** 2 > 0", "cannot stand in a criterion"),
        ("delta(aqi) > 'x'", "cannot stand in a criterion"),
        ("True", "cannot stand in a criterion"),
        ("delta(aqi) in (1, 2)", "cannot stand in a criterion"),
        ("better(mmlu:medical)", "cannot be read"),
        ("", "cannot be read"),
        ("delta(aqi)", "is a number, not yes or no"),
        ("not delta(aqi)", "is a number, not yes or no"),
        ("better(gsm8k) > 0", "is yes or no, not a number"),
        ("bettr(gsm8k)", "unknown word `bettr`"),
    ],
)
def test_what_is_not_of_the_language_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        criterion(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("better(gsm9k)", "the rung will not measure `gsm9k`"),
        ("monotone(gsm8k)", "the rung has no `monotone` of `gsm8k`"),
        ("better(aqi)", "the rung has no `better` of `aqi`"),
        ("delta(gsm8k) > 5", "is a share, at most 1, and is compared with 5"),
        ("value(gsm8k) >= -50", "is compared with -50"),
    ],
)
def test_a_measure_that_will_not_exist_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(criterion(text), KNOWN, "the rung")


def test_an_index_without_a_scale_may_be_compared_with_any_number() -> None:
    check(criterion("delta(aqi) > 5 and better(gsm8k)"), KNOWN, "the rung")
