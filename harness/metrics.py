"""From grades to measures: means with intervals, per group, and the rates behind a score."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.stats import (
    Component,
    Interval,
    clustered_stderr,
    mean_interval,
    mean_stderr,
    normal_interval,
    pass_at_k,
    split_variance,
    wilson,
    wilson_clustered,
)
from harness.types import Measure, Score, Scored

TRUNCATION_RATE = "truncation_rate"
PARSE_FAILURE_RATE = "parse_failure_rate"

_LONG = 200


def essence(score: Score) -> Score:
    """The grade without long texts, since 80,000 of them may be held at once.

    A long answer becomes its hash, which still tells equal answers from different ones.
    """
    answer = score.answer or ""
    if len(answer) + len(score.explanation) <= _LONG:
        return score
    if len(answer) > _LONG:
        answer = hashlib.sha256(answer.encode("utf-8", errors="replace")).hexdigest()
    return replace(score, answer=answer if score.parsed else None, explanation="")


def summarise(metric: str, scored: Sequence[Scored], *, clustered: bool = False) -> list[Measure]:
    """The mean score over samples, then over those of each group and tag where there are any.

    Several completions of a sample count as their mean. clustered: groups, not samples, are what
    the standard error of the whole counts. A NaN (a judge said nothing, or the measure does not
    apply to the question) does not count; nothing scored gives no measure: neither is a zero.
    """
    questions = _questions(scored, lambda item: item.score.value)
    parts: dict[str, list[_Question]] = {}
    for question in questions:
        parts.setdefault(question.group, []).append(question)
        for tag in question.tags:
            parts.setdefault(tag, []).append(question)
    parts.pop("", None)
    whole = [_measure(metric, "", questions, clustered=clustered)] if questions else []
    return [*whole, *(_measure(metric, name, parts[name]) for name in sorted(parts))]


def rates(scored: Sequence[Scored]) -> list[Measure]:
    """Shares of completions that were cut off, and that no answer could be read from.

    For generative tasks: both score 0, and both can be cured without a better model.
    """
    truncated = _questions(scored, lambda item: float(item.truncated))
    unread = _questions(scored, lambda item: float(not item.score.parsed))
    named = ((TRUNCATION_RATE, truncated), (PARSE_FAILURE_RATE, unread))
    return [_measure(metric, "", questions) for metric, questions in named if questions]


def sampling_measures(prefix: str, scored: Sequence[Scored]) -> list[Measure]:
    """What several completions of each question tell beyond their mean; nothing for one each.

    With n completions, for k = 1, 2, 4, … and n: `avg@k` over the first k of each question, and
    where scores are right or wrong `pass@k` and `maj@k`; and the parts of the standard error,
    `sampling_stderr` and `question_stderr`.
    """
    by_sample: dict[str, list[Score]] = {}
    in_turn = sorted(scored, key=lambda item: item.index)
    for item in in_turn:
        by_sample.setdefault(item.sample_id, []).append(item.score)
    questions = _questions(in_turn, lambda item: item.score.value)
    n = max(map(len, by_sample.values()), default=0)
    if n < 2 or any(len(question.values) < 2 for question in questions):
        return []
    found = [
        _measure(f"{prefix}avg@{k}", "", [_first(question, k) for question in questions])
        for k in powers_of_two(n)
    ]
    if _right_or_wrong(questions) and all(len(question.values) == n for question in questions):
        for k in powers_of_two(n):
            solved = [_with_value(q, _pass_at_k(q.values, k)) for q in questions]
            shares = 0 if k == n else n * len(solved)
            found.append(_measure(f"{prefix}pass@{k}", "", solved, answers=shares))
        for k in powers_of_two(n):
            voted = [_with_value(q, _majority(by_sample[q.id][:k])) for q in questions]
            found.append(_measure(f"{prefix}maj@{k}", "", voted))
    return [*found, *_variance(prefix, questions)]


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, … up to n, and n itself.

    >>> powers_of_two(6)
    [1, 2, 4, 6]
    """
    return [*(1 << i for i in range(n.bit_length()) if 1 << i < n), n]


def _pass_at_k(values: Sequence[float], k: int) -> float:
    return pass_at_k(len(values), round(sum(values)), k)


def _majority(scores: Sequence[Score]) -> float:
    """The grade of the answer given most often; of equally frequent ones the first given counts.

    Completions that no answer could be read from do not vote; where none can be read it is wrong.
    """
    votes = Counter(score.answer for score in scores if score.answer is not None)
    if not votes:
        return 0.0
    winner, _ = votes.most_common(1)[0]
    return next(score.value for score in scores if score.answer == winner)


def _variance(prefix: str, questions: Sequence[_Question]) -> list[Measure]:
    """Each part of the standard error as a measure of its own, over the questions."""
    if len(questions) < 2:
        return []
    sampling, question = split_variance([question.values for question in questions])
    parts = {"sampling_stderr": sampling, "question_stderr": question}
    return [_part(f"{prefix}{name}", part, len(questions)) for name, part in parts.items()]


def _part(metric: str, part: Component, n: int) -> Measure:
    quarter = (part.interval.high - part.interval.low) / 4
    return with_interval(metric, "", part.stderr, quarter, part.interval, n)


@dataclass(frozen=True, slots=True)
class _Question:
    """One question; values: of each of its completions."""

    id: str
    group: str
    tags: tuple[str, ...]
    values: list[float]


def _questions(scored: Sequence[Scored], value: Callable[[Scored], float]) -> list[_Question]:
    found: dict[str, _Question] = {}
    for item in scored:
        score = value(item)
        if math.isnan(score):
            continue
        if item.sample_id in found:
            found[item.sample_id].values.append(score)
        else:
            found[item.sample_id] = _Question(item.sample_id, item.group, item.tags, [score])
    return list(found.values())


def _right_or_wrong(questions: Sequence[_Question]) -> bool:
    return {value for question in questions for value in question.values} <= {0.0, 1.0}


def _first(question: _Question, k: int) -> _Question:
    return _Question(question.id, question.group, question.tags, question.values[:k])


def _with_value(question: _Question, value: float) -> _Question:
    return _Question(question.id, question.group, question.tags, [value])


def _measure(
    metric: str,
    group: str,
    questions: Sequence[_Question],
    *,
    clustered: bool = False,
    answers: int = 0,
) -> Measure:
    """answers: how many right or wrong answers the values are shares of; 0 for plain values."""
    means = [sum(question.values) / len(question.values) for question in questions]
    mean, stderr = mean_stderr(means)
    clusters = len(questions)
    if clustered:
        names = list(_cluster_names(questions))
        stderr, clusters = clustered_stderr(means, names), len(set(names))
    if not answers and _right_or_wrong(questions):
        answers = sum(len(question.values) for question in questions)
    interval = _interval(means, (mean, stderr), clusters, answers)
    return with_interval(metric, group, mean, stderr, interval, len(questions))


def _cluster_names(questions: Sequence[_Question]) -> Iterator[str]:
    """The group, for a question of none a cluster of its own."""
    for question in questions:
        yield f"group {question.group}" if question.group else f"question {question.id}"


def _interval(
    means: Sequence[float], estimate: tuple[float, float], clusters: int, answers: int
) -> Interval:
    """Wilson's for right or wrong answers, with the effective number of them where they hang
    together; the bootstrap for scores between (normal where groups hang together)."""
    mean, stderr = estimate
    if answers == clusters:
        return wilson(round(mean * answers), answers)
    if answers:
        return wilson_clustered(mean, stderr, clusters, answers)
    return normal_interval(mean, stderr) if clusters < len(means) else mean_interval(means)


def with_interval(
    metric: str, group: str, value: float, stderr: float, interval: Interval, n: int
) -> Measure:
    """A measure from its parts, with the interval's two ends."""
    return Measure(
        metric=metric,
        group=group,
        value=value,
        stderr=stderr,
        ci_low=interval.low,
        ci_high=interval.high,
        n=n,
    )
