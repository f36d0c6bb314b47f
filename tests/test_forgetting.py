from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_runs import finished_run, row
from typer.testing import CliRunner

from harness.cli.app import app
from harness.compare import Comparison, compare
from harness.forgetting import Forgetting, Question, as_json, assess, forgetting, groups
from harness.stats import paired_share_interval, share_loss_p, wilson
from harness.verdict import three_sentences, worst_group


def question(number: int, base: float, tuned: float, group: str = "") -> Question:
    return Question(
        id=f"q{number}",
        group=group,
        base=base,
        tuned=tuned,
        target="4",
        base_answer="4" if base else "5",
        tuned_answer="4" if tuned else "5",
    )


def asked(
    kept: int, lost: int, won: int, wrong: int, group: str = "", first: int = 0
) -> list[Question]:
    answers = [(1.0, 1.0)] * kept + [(1.0, 0.0)] * lost + [(0.0, 1.0)] * won + [(0.0, 0.0)] * wrong
    return [question(first + i, base, tuned, group) for i, (base, tuned) in enumerate(answers)]


def test_a_loss_is_excluded_by_many_questions_and_not_by_few() -> None:
    many, few = (
        assess("mmlu", "", asked(5 * k, k // 10, k // 10, 5 * k), 0.01) for k in (1000, 10)
    )
    assert (many.excluded, few.excluded) == (True, False)
    assert many.p == share_loss_p(100, 100, 10_200, 0.01)
    assert many.loss_at_most < 0.01 < few.loss_at_most


@pytest.mark.parametrize(("lost", "won"), [(5, 9), (20, 20), (31, 12), (60, 8), (0, 0)])
def test_excluded_is_the_same_as_the_90_percent_interval_above_the_margin(
    lost: int, won: int
) -> None:
    found = assess("gsm8k", "", asked(400, lost, won, 1000), 0.01)
    interval = paired_share_interval(won, lost, found.n, 1.6448536269514722)
    assert found.loss_at_most == pytest.approx(-interval.low)
    assert found.excluded == (interval.low > -0.01)


def test_what_was_lost_is_counted_among_what_was_right() -> None:
    found = assess("gsm8k", "", asked(60, 20, 5, 15), 0.01)
    assert (found.right_before, found.lost_share) == (80, 0.25)
    interval = wilson(20, 80)
    assert (found.lost_low, found.lost_high) == (interval.low, interval.high)
    assert [one.id for one in found.lost] == [f"q{i}" for i in range(60, 80)]


def test_nothing_right_before_means_nothing_to_lose() -> None:
    found = as_json(assess("gsm8k", "", asked(0, 0, 5, 15), 0.01))
    assert (found["right_before"], found["lost_share"], found["lost"]) == (0, None, [])


def test_graded_scores_have_a_margin_too() -> None:
    slight = [question(i, 0.5 + i % 3 / 10, 0.502 + i % 3 / 10) for i in range(100)]
    assert assess("alpaca_eval", "", slight, 0.01).excluded
    fallen = [question(i, 0.9, 0.2 + i % 5 / 10) for i in range(100)]
    assert not assess("alpaca_eval", "", fallen, 0.01).excluded


def test_worst_groups_come_first_with_intervals_that_hold_all_at_once() -> None:
    virology = asked(10, 10, 0, 0, "virology")
    anatomy = asked(18, 1, 1, 0, "anatomy", 100)
    tiny = asked(0, 4, 0, 0, "tiny", 200)
    worst, other = groups([*virology, *anatomy, *tiny])
    assert (worst.name, worst.n, worst.delta) == ("virology", 20, -0.5)
    assert (other.name, other.delta) == ("anatomy", 0.0)
    alone = paired_share_interval(0, 10, 20)
    assert worst.ci_low < alone.low
    assert worst.ci_high > alone.high


def pair(home: Path, task: str, questions: list[Question]) -> None:
    for model in ("base", "tuned"):
        finished_run(
            home,
            f"{task}-{model}",
            [
                row(
                    q.id,
                    getattr(q, model),
                    group_name=q.group,
                    answer=getattr(q, f"{model}_answer"),
                )
                for q in questions
            ],
            model=model,
            task=task,
        )


def compared(home: Path) -> list[Comparison]:
    return compare(home, "base", "tuned", say=pytest.fail)


def test_questions_are_read_from_both_runs(tmp_path: Path) -> None:
    questions = asked(3, 2, 1, 1, "algebra")
    pair(tmp_path, "math", questions)
    (found,) = forgetting(tmp_path, compared(tmp_path), 0.01, say=pytest.fail)
    assert found == assess("math", "", questions, 0.01)


def outside(name: str, **changes: Any) -> Forgetting:
    fields: dict[str, Any] = {"margin": 0.01, "questions": asked(500, 5, 5, 500)}
    fields |= changes
    return assess(name, "", fields["questions"], fields["margin"])


def test_three_sentences_tell_gain_keeping_and_loss(tmp_path: Path) -> None:
    pair(tmp_path, "gsm8k", asked(100, 5, 60, 200))
    pair(tmp_path, "mmlu", asked(2000, 10, 10, 2000, "virology"))
    pair(tmp_path, "xstest", asked(20, 2, 2, 20))
    found = sorted(compared(tmp_path), key=lambda one: one.task)
    lost = forgetting(tmp_path, found[1:], 0.01, say=pytest.fail)
    assert three_sentences(found, lost) == (
        "The tuned model is better on gsm8k (+15.1 points, 365 questions); no evidence of a change "
        "on mmlu (+0.0 points, 4,020 questions); too few questions to tell on xstest (+0.0 points, "
        "44 questions), adjusted for 3 comparisons.",
        "Outside the training domain a loss over 1 point is excluded on mmlu; it is not excluded "
        "on xstest (it may be as much as 9.1 points).",
        "Of 2,032 questions that the base had right, 12 are lost (0.6 %).",
    )


def test_the_worst_part_is_named_and_doubted_where_it_may_be_chance() -> None:
    sure = outside("mmlu", questions=asked(20, 80, 0, 0, "law"))
    doubtful = outside("mmlu", questions=asked(9, 1, 0, 0, "law"))
    worst = worst_group([doubtful, sure])
    assert worst is not None
    assert worst[1].delta == -0.8
    assert "law, -80.0 points over 100 questions (" in three_sentences([], [sure])[2]
    assert three_sentences([], [doubtful])[2].endswith(", which may be chance).")


def test_without_other_benchmarks_nothing_is_claimed_about_forgetting(tmp_path: Path) -> None:
    pair(tmp_path, "gsm8k", asked(100, 5, 60, 200))
    _, kept, lost = three_sentences(compared(tmp_path), [])
    assert kept.endswith("so nothing is known about what was forgotten.")
    assert lost == "Of all 365 questions 5 are answered worse than before."


def run(home: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", "base", "tuned", "--home", str(home), *arguments])


def test_the_command_says_what_was_lost(tmp_path: Path) -> None:
    pair(tmp_path, "mmlu", asked(20, 80, 0, 0, "law"))
    done = run(tmp_path, "--margin", "1")
    assert done.exit_code == 3
    assert done.stdout.startswith("The tuned model is worse on mmlu")
    assert "not excluded" in done.stdout
    found = json.loads(run(tmp_path, "--margin", "1", "--json").stdout)
    assert list(found) == ["sentences", "comparison", "forgetting"]
    (lost,) = found["forgetting"]
    assert (lost["excluded"], len(lost["lost"]), lost["groups"][0]["name"]) == (False, 80, "law")


@pytest.mark.parametrize("margin", ["0", "-1", "100"])
def test_a_margin_without_sense_is_refused(tmp_path: Path, margin: str) -> None:
    done = run(tmp_path, f"--margin={margin}")
    assert str(done.exception) == f"`--margin {margin}` is no loss that could be excluded"
