from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_runs import finished_run, row, scores
from typer.testing import CliRunner

from harness import sample_size
from harness.cli.app import app
from harness.errors import UsageError
from harness.power import Aim, Plan, advice, plan, sentence
from harness.registry import tasks

TWO_POINTS = Aim(delta=0.02)


def planned(home: Path, task: str = "arithmetic", aim: Aim = TWO_POINTS, **more: Any) -> Plan:
    (found,) = plan(home, tasks(task), aim, say=pytest.fail, **more)
    return found


def answered(home: Path, model: str, values: Sequence[float], **changes: Any) -> None:
    fields = {"task": "arithmetic", "primary_metric": "exact_match", **changes}
    finished_run(home, f"run-{model}", scores(values), model=model, **fields)


def correlated(n: int, seed: int = 0) -> tuple[list[float], list[float]]:
    """Right and wrong answers of two models that differ on about a tenth of the questions."""
    generator = random.Random(seed)
    base = [float(generator.random() < 0.4) for _ in range(n)]
    return base, [1 - score if generator.random() < 0.1 else score for score in base]


def test_without_a_history_the_assumption_is_named(tmp_path: Path) -> None:
    found = planned(tmp_path)
    assert found.n == 500
    assert found.needed == sample_size.questions_needed(0.15, 0.02)
    assert found.detectable == sample_size.smallest_difference(500, 0.15)
    assert found.basis.source.startswith("assumed: correlation 0.7 and half of the answers right")


def test_discordance_and_correlation_are_taken_from_the_history(tmp_path: Path) -> None:
    base, tuned = correlated(400)
    answered(tmp_path, "base", base)
    answered(tmp_path, "tuned", tuned, parent="base")
    basis = planned(tmp_path, against="base").basis
    changed = sum(a != b for a, b in zip(base, tuned, strict=True)) / 400
    assert basis.changed == pytest.approx(changed)
    assert basis.share == pytest.approx(sum(base) / 400)
    assert 0.7 < basis.correlation < 0.9
    assert basis.source == "1 pair(s) of runs of `base` and its parent or fine-tunes in the history"


def test_relatives_of_the_model_come_before_strangers(tmp_path: Path) -> None:
    base, tuned = correlated(400)
    answered(tmp_path, "base", base)
    answered(tmp_path, "tuned", tuned, parent="base")
    answered(tmp_path, "stranger", [1 - score for score in base])
    assert planned(tmp_path, against="tuned").basis.changed < 0.2
    assert planned(tmp_path, against="stranger").basis.changed > 0.8
    assert "other models" in planned(tmp_path, against="stranger").basis.source


def test_a_model_without_a_partner_lends_its_score(tmp_path: Path) -> None:
    answered(tmp_path, "base", [1.0] * 90 + [0.0] * 10)
    basis = planned(tmp_path, against="base").basis
    assert basis.changed == pytest.approx(2 * 0.9 * 0.1 * 0.3)
    assert "the score of `base`" in basis.source


def test_two_runs_of_few_common_questions_tell_nothing(tmp_path: Path) -> None:
    answered(tmp_path, "base", [1.0] * 29)
    answered(tmp_path, "tuned", [0.0] * 29)
    assert planned(tmp_path).basis.source.startswith("assumed")


def test_several_answers_tell_how_much_is_sampling(tmp_path: Path) -> None:
    """Where every question is a coin, more answers shrink everything there is."""
    generator = random.Random(3)
    rows = [
        row(f"q{i}", float(generator.random() < 0.5), sample_index=k)
        for i in range(300)
        for k in range(4)
    ]
    for model in ("base", "tuned"):
        finished_run(
            tmp_path,
            f"run-{model}",
            [{**one, "score": float(generator.random() < 0.5)} for one in rows],
            model=model,
            task="arithmetic",
            sampling={"temperature": 1.0},
        )
    found = planned(tmp_path)
    assert found.basis.graded
    assert found.basis.sampling_part > 0.85
    assert found.basis.variance == pytest.approx(0.5, abs=0.05)
    one, four, *_ = found.repeated
    assert one.needed is not None
    assert four.needed is not None
    assert one.needed / four.needed > 2.5


def test_choices_are_not_asked_several_times(tmp_path: Path, data_root: Path) -> None:
    found = planned(tmp_path, "medqa", data_root=data_root)
    assert (found.n, found.repeated, advice(found)) == (1273, (), "")


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (2, "arithmetic: 2 points need 3,040 questions; its 500 can show 5.0 points or more only"),
        (20, "arithmetic: 20 points need 39 questions; its 500 are enough and show 5.0 points"),
    ],
)
def test_a_benchmark_that_cannot_show_the_difference_says_so(
    tmp_path: Path, points: int, expected: str
) -> None:
    aim = Aim(delta=points / 100)
    assert sentence(planned(tmp_path, aim=aim), aim).startswith(expected)


def test_a_family_of_comparisons_needs_more(tmp_path: Path) -> None:
    alone, among = (planned(tmp_path, aim=Aim(delta=0.02, family=n)).needed for n in (1, 5))
    assert alone is not None
    assert among is not None
    assert among > 1.3 * alone


@pytest.mark.parametrize(
    ("aim", "message"),
    [
        (Aim(delta=0.0), "a difference of `0` points cannot be planned for"),
        (Aim(delta=-0.01), "a difference of `-1` points"),
        (Aim(delta=1.01), "a difference of `101` points"),
        (Aim(delta=0.02, power=1.0), "`--power 1`"),
        (Aim(delta=0.02, alpha=0.0), "`--alpha 0`"),
        (Aim(delta=0.02, family=0), "`--family 0`"),
    ],
)
def test_aims_without_sense_are_refused(tmp_path: Path, aim: Aim, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(tmp_path, aim=aim)


def test_an_unknown_model_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    answered(tmp_path, "my-tuned", [1.0] * 40)
    with pytest.raises(UsageError, match="no model is called `my-tuend`") as error:
        planned(tmp_path, against="my-tuend")
    assert error.value.hint == "did you mean `my-tuned`?"


def test_the_command_prints_json_for_every_task(tmp_path: Path) -> None:
    arguments = ["power", "--task", "arithmetic", "--delta", "5", "--home", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    (found,) = json.loads(done.stdout)
    assert set(found) == set(Plan.__slots__)
    assert (found["task"], found["delta"], found["n"]) == ("arithmetic", 0.05, 500)
    assert [one["samples"] for one in found["repeated"]] == [1, 4, 16, 64]
