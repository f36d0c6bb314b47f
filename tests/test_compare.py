from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fake_runs import PARTS, finished_run, row, scores

from harness import runs
from harness.compare import Comparison, as_json, compare, sentence, verdict
from harness.errors import UsageError
from harness.stats import mcnemar_exact, mean_stderr, paired_share_interval


def compared(home: Path, a: str = "base", b: str = "tuned", task: str | None = None) -> Any:
    return compare(home, a, b, task, say=pytest.fail)


def pair(home: Path, base: list[float], tuned: list[float], **changes: Any) -> None:
    """The run of `base` and the run of `tuned` on one task, as `<task>-base`, `<task>-tuned`."""
    task = changes.get("task", "gsm8k")
    finished_run(home, f"{task}-base", scores(base), model="base", **changes)
    finished_run(home, f"{task}-tuned", scores(tuned), model="tuned", **changes)


def test_right_and_wrong_answers_are_compared_exactly(tmp_path: Path) -> None:
    base = [1.0] * 60 + [0.0] * 140
    tuned = [1.0] * 55 + [0.0] * 5 + [1.0] * 40 + [0.0] * 100
    pair(tmp_path, base, tuned)
    (found,) = compared(tmp_path)
    interval = paired_share_interval(won=40, lost=5, n=200)
    assert as_json(found) == {
        "task": "gsm8k",
        "variant": "",
        "metric": "exact_match",
        "n": 200,
        "base": 0.3,
        "tuned": 0.475,
        "delta": 0.175,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "p": mcnemar_exact(5, 40),
        "p_holm": mcnemar_exact(5, 40),
        "both_right": 55,
        "lost": 5,
        "won": 40,
        "both_wrong": 100,
        "verdict": "better",
    }
    assert (found.base_run, found.tuned_run) == ("gsm8k-base", "gsm8k-tuned")


def test_a_fall_is_worse_and_the_other_way_round_better(tmp_path: Path) -> None:
    pair(tmp_path, [1.0] * 200, [1.0] * 150 + [0.0] * 50)
    assert [one.verdict for one in compared(tmp_path)] == ["worse"]
    assert [one.verdict for one in compared(tmp_path, "tuned", "base")] == ["better"]


def test_a_few_questions_are_too_few(tmp_path: Path) -> None:
    pair(tmp_path, [0.0] * 10, [1.0] * 4 + [0.0] * 6)
    (found,) = compared(tmp_path)
    assert found.verdict == "too few questions"
    assert found.detectable > 0.5


def test_many_questions_without_a_difference_are_no_evidence(tmp_path: Path) -> None:
    pair(tmp_path, [1.0, 0.0, 1.0, 0.0] * 500, ([1.0, 0.0] * 2) * 499 + [0.0, 1.0, 1.0, 0.0])
    (found,) = compared(tmp_path)
    assert (found.won, found.lost, found.verdict) == (1, 1, "no evidence")


def test_graded_scores_are_resampled(tmp_path: Path) -> None:
    generator = random.Random(1)
    base = [generator.choice([0.0, 0.25, 0.5]) for _ in range(400)]
    tuned = [score + generator.choice([0.0, 0.25, 0.5]) for score in base]
    pair(tmp_path, base, tuned)
    (found,) = compared(tmp_path)
    delta, stderr = mean_stderr([t - b for t, b in zip(tuned, base, strict=True)])
    assert found.delta == pytest.approx(delta)
    assert found.ci_low == pytest.approx(delta - 1.96 * stderr, abs=0.2 * stderr)
    assert found.lost == 0
    assert found.both_right + found.won + found.both_wrong == 400
    assert (found.p < 0.001, found.verdict) == (True, "better")


def test_several_completions_count_as_the_mean_of_their_question(tmp_path: Path) -> None:
    def drawn(shares: list[int]) -> list[dict[str, Any]]:
        return [
            row(f"q{i}", float(k < right), sample_index=k)
            for i, right in enumerate(shares)
            for k in range(4)
        ]

    finished_run(tmp_path, "a", drawn([0, 1, 4, 3]))
    finished_run(tmp_path, "b", drawn([2, 1, 4, 0]), model="tuned")
    (found,) = compared(tmp_path)
    assert (found.n, found.base, found.tuned, found.delta) == (4, 0.5, 0.4375, -0.0625)
    assert (found.both_right, found.lost, found.won, found.both_wrong) == (1, 1, 1, 1)


def test_p_values_are_adjusted_over_all_tasks_at_once(tmp_path: Path) -> None:
    changes = {"math": (9, 0), "medqa": (8, 2), "gsm8k": (6, 0)}
    for task, (won, lost) in changes.items():
        base = [0.0] * won + [1.0] * lost + [1.0] * 190
        tuned = [1.0] * won + [0.0] * lost + [1.0] * 190
        pair(tmp_path, base, tuned, task=task)
    found = {one.task: one for one in compared(tmp_path)}
    assert found["math"].p_holm == pytest.approx(3 * 2 / 2**9)
    assert found["gsm8k"].p == 2 / 2**6
    assert found["gsm8k"].p_holm == pytest.approx(2 * 2 / 2**6)
    assert found["medqa"].p_holm == found["medqa"].p
    assert {task: one.verdict for task, one in found.items()} == {
        "math": "better",
        "medqa": "no evidence",
        "gsm8k": "no evidence",
    }
    (alone,) = compared(tmp_path, task="gsm8k")
    assert (alone.p_holm, alone.verdict) == (alone.p, "better")


def test_runs_are_named_by_id_or_its_unique_beginning_or_end(tmp_path: Path) -> None:
    pair(tmp_path, [1.0, 0.0], [1.0, 1.0])
    for a, b in (("gsm8k-base", "gsm8k-tuned"), ("gsm8k-b", "gsm8k-t"), ("k-base", "k-tuned")):
        assert [one.n for one in compared(tmp_path, a, b)] == [2]
    with pytest.raises(UsageError, match="fits 2 runs"):
        compared(tmp_path, "gsm", "tuned")


def test_a_run_can_be_compared_with_a_model(tmp_path: Path) -> None:
    pair(tmp_path, [1.0, 0.0], [1.0, 1.0])
    assert [one.won for one in compared(tmp_path, "gsm8k-base", "tuned")] == [1]


def test_limited_runs_are_compared_only_when_named(tmp_path: Path) -> None:
    parts = {**PARTS, "limit": 2}
    pair(tmp_path, [1.0, 0.0], [1.0, 1.0], limit_n=2, protocol_parts=parts)
    with pytest.raises(UsageError) as caught:
        compared(tmp_path)
    assert caught.value.message.startswith("`base` has no complete run")
    assert "gsm8k-base" in caught.value.hint
    assert [one.n for one in compared(tmp_path, "gsm8k-base", "gsm8k-tuned")] == [2]


def test_the_latest_runs_of_a_common_protocol_are_taken(tmp_path: Path) -> None:
    pair(tmp_path, [0.0], [0.0])
    late = {"finished_at": "2026-03-01T00:00:00.000Z"}
    finished_run(tmp_path, "later", scores([1.0]), model="tuned", **late)
    finished_run(tmp_path, "elsewhere", scores([0.5]), model="tuned", protocol="p2", **late)
    (found,) = compared(tmp_path)
    assert found.tuned_run == "later"


def test_different_protocols_are_refused_with_what_differs(tmp_path: Path) -> None:
    sampling = {"temperature": 0.0, "max_tokens": 256}
    parts = {**PARTS, "sampling": sampling}
    finished_run(tmp_path, "a", scores([1]), protocol_parts=parts)
    other = {**parts, "shots": 0, "limit": 100, "prompts": "bb"}
    other["sampling"] = {**sampling, "temperature": 1.0}
    finished_run(tmp_path, "b", scores([1]), model="tuned", protocol="p2", protocol_parts=other)
    for names in (("a", "b"), ("base", "tuned")):
        with pytest.raises(UsageError) as caught:
            compared(tmp_path, *names)
        assert caught.value.message.endswith(
            "different protocols: shots 5 and 0, limit none and 100, temperature 0.0 and 1.0"
        )


def test_what_only_one_model_did_is_said_and_left_out(tmp_path: Path) -> None:
    pair(tmp_path, [1.0], [1.0])
    finished_run(tmp_path, "m", scores([1]), task="math")
    finished_run(tmp_path, "x", scores([1]), task="mmlu")
    other = {**PARTS, "shots": 0}
    finished_run(
        tmp_path, "y", scores([1]), task="mmlu", model="tuned", protocol="p2", protocol_parts=other
    )
    said: list[str] = []
    assert [one.task for one in compare(tmp_path, "base", "tuned", say=said.append)] == ["gsm8k"]
    assert said == [
        "left out `math`: only `base` has a complete run of it",
        "left out `mmlu`: the protocols differ in shots 5 and 0",
    ]


def test_models_without_a_common_task_are_refused(tmp_path: Path) -> None:
    finished_run(tmp_path, "a", scores([1]))
    finished_run(tmp_path, "b", scores([1]), model="tuned", task="math")
    with pytest.raises(UsageError, match="common task"):
        compare(tmp_path, "base", "tuned", say=lambda _: None)


@pytest.mark.parametrize(
    ("a", "b", "task", "hint"),
    [
        ("bse", "tuned", None, "did you mean `base`?"),
        ("base", "tunde", None, "did you mean `tuned`?"),
        ("base", "tuned", "gsmk8", "did you mean `gsm8k`?"),
        ("", "tuned", None, ""),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    tmp_path: Path, a: str, b: str, task: str | None, hint: str
) -> None:
    pair(tmp_path, [1.0], [1.0])
    with pytest.raises(UsageError) as caught:
        compared(tmp_path, a, b, task)
    assert hint in caught.value.hint


def test_the_bare_name_of_a_pair_means_the_member_that_eval_would_take(tmp_path: Path) -> None:
    finished_run(tmp_path, "a", scores([0]), model="Tiny/base")
    finished_run(tmp_path, "b", scores([1]), model="Tiny/instruct")
    assert [one.won for one in compared(tmp_path, "Tiny/base", "Tiny")] == [1]


def test_a_run_is_not_compared_with_itself_nor_with_an_unfinished_one(tmp_path: Path) -> None:
    pair(tmp_path, [1.0], [1.0])
    with pytest.raises(UsageError, match="same run"):
        compared(tmp_path, "gsm8k-base", "base")
    finished_run(tmp_path, "bad", status="failed", model="tuned")
    with pytest.raises(UsageError) as caught:
        compared(tmp_path, "base", "bad")
    assert "is failed" in caught.value.message
    assert "bench runs resume bad" in caught.value.hint


def test_variants_are_tasks_of_their_own(tmp_path: Path) -> None:
    pair(tmp_path, [1.0], [1.0])
    for model in ("base", "tuned"):
        finished_run(tmp_path, f"v-{model}", scores([1]), model=model, variant="cs336")
    assert {(one.task, one.variant) for one in compared(tmp_path)} == {
        ("gsm8k", ""),
        ("gsm8k", "cs336"),
    }
    assert [one.variant for one in compared(tmp_path, task="gsm8k:cs336")] == ["cs336"]


def test_training_runs_are_not_compared(tmp_path: Path) -> None:
    pair(tmp_path, [1.0], [1.0])
    finished_run(tmp_path, "t", kind="train", task="", model="base")
    assert [one.task for one in compared(tmp_path)] == ["gsm8k"]
    assert runs.find(tmp_path, "t").kind == "train"


@pytest.mark.parametrize(
    ("delta", "p_holm", "detectable", "expected"),
    [
        (0.1, 0.049, 0.3, "better"),
        (-0.1, 0.001, 0.01, "worse"),
        (0.1, 0.05, 0.051, "too few questions"),
        (0.1, 0.05, 0.05, "no evidence"),
    ],
)
def test_verdict_rule(delta: float, p_holm: float, detectable: float, expected: str) -> None:
    assert verdict(delta, p_holm, detectable) == expected


def comparison(**changes: Any) -> Comparison:
    fields: dict[str, Any] = {
        "task": "medqa",
        "variant": "",
        "metric": "acc",
        "n": 1273,
        "base": 0.3,
        "tuned": 0.339,
        "delta": 0.039,
        "ci_low": 0.001,
        "ci_high": 0.077,
        "p": 0.04,
        "p_holm": 0.04,
        "both_right": 1,
        "lost": 1,
        "won": 1,
        "both_wrong": 1,
        "verdict": "better",
        "detectable": 0.05,
        "base_run": "a",
        "tuned_run": "b",
    }
    return Comparison(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "family", "expected"),
    [
        ({}, 1, "better, hardly by chance (p = .040)."),
        ({"p": 1e-9, "p_holm": 1e-8}, 4, "(p < .001, p < .001 among 4 comparisons)."),
        (
            {"verdict": "no evidence", "p_holm": 0.44},
            11,
            "no evidence, p = .040 alone but p = .440 among 11 comparisons.",
        ),
        ({"verdict": "no evidence", "p": 0.4}, 1, "no evidence of a change (p = .400)."),
        (
            {"verdict": "too few questions", "detectable": 0.22},
            1,
            "too few to tell, they would show a difference of 22 points or more.",
        ),
    ],
)
def test_sentences_say_the_verdict_in_plain_words(
    changes: dict[str, Any], family: int, expected: str
) -> None:
    text = sentence(comparison(**changes), family)
    assert text.startswith("medqa rose by 3.9 points (95 % interval +0.1 to +7.7) over 1273")
    assert text.endswith(expected)


def test_sentences_know_a_fall_from_a_standstill() -> None:
    assert sentence(comparison(delta=-0.02)).startswith("medqa fell by 2.0 points")
    assert sentence(comparison(delta=0.0, variant="x")).startswith("medqa:x stayed the same")
