"""The study that trials share: Optuna's order of pruning, several processes, and kills."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from harness import runs
from harness.errors import UsageError
from harness.search import Search
from harness.tuning.plan import Plan
from harness.tuning.space import Dimension
from harness.tuning.studies import JOURNAL, folder_of
from harness.tuning.study import Study, row
from harness.types import JSON, ModelSpec

LR = Dimension(path="optimizer.learning_rate", kind="float", low=1e-5, high=1e-1, log=True)


def plan(name: str = "s", asked: JSON | None = None, **search: Any) -> Plan:
    space = {LR.path: {"low": LR.low, "high": LR.high, "log": True}}
    return Plan(
        recipe="r",
        study=name,
        search=Search.model_validate({"space": space, **search}),
        space=(LR,),
        base=ModelSpec(name="m", path="m"),
        asked=asked or {"recipe": {"max_steps": 3}},
        key="k",
        found={},
        flags=(),
        examples=1,
        drawn=(),
        new_data=False,
        device="cpu",
        processes=1,
    )


def trace(home: Path, values: list[int], **search: Any) -> list[int]:
    """The last step of each trial, where trial i reports values[i] + 1 / step at steps 1 to 9."""
    study = Study(home, plan(**search))
    last = []
    with study.working():
        for value in values:
            trial = study.ask(len(values))
            assert trial is not None
            for step in range(1, 10):
                if study.prunes(trial, step, value + 1 / step):
                    study.tell(trial, TrialState.PRUNED, None, {})
                    break
            else:
                study.tell(trial, TrialState.COMPLETE, value + 1 / 9, {})
            last.append(step)
    return last


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([5, 1, 9, 3, 7, 2, 8, 4, 6], [9, 9, 1, 1, 1, 3, 1, 1, 1]),
        (list(range(1, 10)), [9, *[1] * 8]),
        (list(range(9, 0, -1)), [9] * 9),
    ],
)
def test_asha_prunes_in_the_published_order(
    tmp_path: Path, values: list[int], steps: list[int]
) -> None:
    assert trace(tmp_path, values) == steps


def test_a_trial_that_has_run_to_its_end_is_not_pruned_there(tmp_path: Path) -> None:
    study = Study(tmp_path, plan(evaluations=9))
    with study.working():
        for curve in ([5] * 9, [1] * 8 + [99]):
            trial = study.ask(2)
            assert trial is not None
            ended = [study.prunes(trial, step, value) for step, value in enumerate(curve, 1)]
            assert ended == [False] * 9
            study.tell(trial, TrialState.COMPLETE, curve[-1], {})


def test_hyperband_prunes_too_and_none_does_not(tmp_path: Path) -> None:
    values = [5, 1, 9, 3, 7, 2, 8, 4, 6]
    assert sum(trace(tmp_path / "h", values, pruner="hyperband")) < 81
    assert trace(tmp_path / "n", values, pruner="none") == [9] * 9


def test_higher_is_better_where_the_objective_is_a_task(tmp_path: Path) -> None:
    # Each is worse than the one before at the first evaluation, so all but the first end there.
    values = [-value for value in range(1, 10)]
    study = Study(tmp_path, plan(objective="arithmetic"))
    last = []
    with study.working():
        for value in values:
            trial = study.ask(9)
            assert trial is not None
            stopped = study.prunes(trial, 1, value)
            study.tell(trial, TrialState.PRUNED if stopped else TrialState.COMPLETE, value, {})
            last.append(stopped)
    assert last == [False, *[True] * 8]
    best = study.best()
    assert best is not None
    assert best.number == 0


def finish(study: Study, wanted: int) -> list[float]:
    """Run trials that cost nothing until there are enough; what was tried."""
    tried = []
    with study.working():
        while (trial := study.ask(wanted)) is not None:
            value = trial.params[LR.path]
            tried.append(value)
            study.tell(trial, TrialState.COMPLETE, value, {"last_step": 9})
    return tried


def test_a_study_goes_on_where_it_stopped_with_the_same_draws(tmp_path: Path) -> None:
    at_once = finish(Study(tmp_path / "a", plan(sampler="random")), 6)
    first = finish(Study(tmp_path / "b", plan(sampler="random")), 2)
    rest = finish(Study(tmp_path / "b", plan(sampler="random")), 6)
    assert first + rest == at_once
    assert len(set(at_once)) == 6
    assert finish(Study(tmp_path / "b", plan(sampler="random")), 6) == []


def _work(home: Path, wanted: int) -> None:
    finish(Study(home, plan(sampler="random")), wanted)


def test_many_processes_share_the_trials_and_lose_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, 12)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    trials = Study(tmp_path, plan(sampler="random")).trials()
    assert [one.number for one in trials] == list(range(12))
    assert {one.state for one in trials} == {TrialState.COMPLETE}
    assert {one.params[LR.path] for one in trials} == set(
        finish(Study(tmp_path / "alone", plan(sampler="random")), 12)
    )


def _die_in_a_trial(home: Path) -> None:
    study = Study(home, plan(sampler="random"))
    with study.working():
        assert study.ask(3) is not None
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_trial_whose_worker_was_killed_has_failed_and_is_tried_again(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=_die_in_a_trial, args=(tmp_path,))
    killed.start()
    killed.join()
    study = Study(tmp_path, plan(sampler="random"))
    assert not study.is_running()
    tried = finish(study, 3)
    assert len(tried) == 3
    assert sorted(tried) == sorted(finish(Study(tmp_path / "b", plan(sampler="random")), 3))
    assert [one.state for one in study.cut()] == [TrialState.FAIL]
    assert study.ended() == 3


def test_a_journal_that_was_torn_is_mended(tmp_path: Path) -> None:
    finish(Study(tmp_path, plan()), 2)
    journal = folder_of(tmp_path, "s") / JOURNAL
    with journal.open("a") as file:
        file.write('{"op_code": 4, "worker')
    assert len(finish(Study(tmp_path, plan()), 4)) == 2


def test_a_study_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Study(tmp_path, plan())
    other = plan(asked={"recipe": {"max_steps": 4, "seed": 1}})
    with pytest.raises(UsageError) as raised:
        Study(tmp_path, other)
    assert raised.value.message == (
        "the study `s` was made by another recipe: `recipe.max_steps`, `recipe.seed` differ(s)"
    )
    Study(tmp_path, replace(other, study="mine"))
    assert (folder_of(tmp_path, "mine") / JOURNAL).is_file()


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsgaii", "qmc"])
def test_every_sampler_that_is_named_draws(tmp_path: Path, sampler: str) -> None:
    tried = finish(Study(tmp_path, plan(sampler=sampler)), 13)
    assert len(set(tried)) >= 12
    assert all(LR.low <= value <= LR.high for value in tried)


def test_a_failed_trial_is_a_trial_with_its_cause(tmp_path: Path) -> None:
    study = Study(tmp_path, plan())
    with study.working():
        trial = study.ask(1)
        assert trial is not None
        study.tell(trial, TrialState.FAIL, None, {"cause": "nan_loss", "error": "the loss is nan"})
    (failed,) = study.trials()
    told = row(failed, study.point(failed.params))
    assert (told["state"], told["cause"], told["error"]) == (
        "failed",
        "nan_loss",
        "the loss is nan",
    )
    assert study.ended() == 1
    assert study.best() is None


def test_only_the_best_trial_keeps_its_checkpoint(tmp_path: Path) -> None:
    study = Study(tmp_path, plan())
    with study.working():
        for value in (0.3, 0.1, 0.2):
            trial = study.ask(3)
            assert trial is not None
            run_id = f"t{trial.number}"
            (runs.folder_of(tmp_path, run_id) / "checkpoint").mkdir(parents=True)
            study.tell(trial, TrialState.COMPLETE, value, {"child_run_id": run_id})
            study.drop_checkpoints(tmp_path)
    kept = [place.parent.name for place in (tmp_path / "runs").glob("*/checkpoint")]
    assert kept == ["t1"]
