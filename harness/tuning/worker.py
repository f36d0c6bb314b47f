"""A worker of a search: asks the study for a trial, trains, evaluates, until there are enough.

    python -m harness.tuning.worker JOB

JOB is one JSON object, the `Job`. It tells its parent by JSON lines on stdout:

    {"event": "note", "text"}
    {"event": "began", "trial", "params"}
    {"event": "progress", "model", "counts"}
    {"event": "ended", "trial", "state", "value", "told"}
    {"event": "failed", "cause", "message", "hint"}

Several of them, of one command or of several, work on one study.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import Trial, TrialState

from harness import evaluate, runs, store
from harness.engines.worker import Channel, end_with_parent
from harness.errors import BenchError, WorkerError
from harness.search import LOSS
from harness.tuning import objective
from harness.tuning.opening import Bench
from harness.tuning.places import Place
from harness.tuning.plan import Plan, read
from harness.tuning.scoring import Scoring
from harness.tuning.study import Study
from harness.tuning.training_host import TrainingHost
from harness.tuning.trial import Ended, run_trial
from harness.types import JSON

Tell = Callable[[JSON], None]

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """run_id: of the tuning run. trials: that the study is to have in all."""

    home: Path
    run_id: str
    trials: int
    place: Place
    evaluation: evaluate.Options

    def to_json(self) -> JSON:
        asked = {
            field.name: getattr(self.evaluation, field.name)
            for field in dataclasses.fields(self.evaluation)
        }
        folders = {
            name: str(asked[name]) if asked[name] is not None else None
            for name in ("home", "data_root")
        }
        return {
            "home": str(self.home),
            "run_id": self.run_id,
            "trials": self.trials,
            "place": dataclasses.asdict(self.place),
            "evaluation": {**asked, **folders, "settings": dict(self.evaluation.settings)},
        }


def job_from_json(value: JSON) -> Job:
    asked = value["evaluation"]
    folders = {name: Path(asked[name]) if asked[name] else None for name in ("home", "data_root")}
    return Job(
        home=Path(value["home"]),
        run_id=value["run_id"],
        trials=value["trials"],
        place=Place(**value["place"]),
        evaluation=evaluate.Options(**{**asked, **folders}),
    )


class _Told:
    """A `Listener` that passes on what it hears."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def note(self, text: str) -> None:
        self._tell({"event": "note", "text": text})

    def progress(self, model: str, counts: JSON) -> None:
        self._tell({"event": "progress", "model": model, "counts": counts})


def work(job: Job, tell: Tell) -> None:
    """Run trials until the study has as many as are wanted. Raises BenchError where none can be
    run; a trial that fails is a trial."""
    plan = read(runs.folder_of(job.home, job.run_id))
    listener = _Told(tell)
    with ExitStack() as stack:
        study = Study(job.home, plan)
        stack.enter_context(study.working())
        host = stack.enter_context(closing(TrainingHost(job.place.variables(job.place.train))))
        scoring = _scoring(job, plan, listener)
        if scoring is not None:
            stack.enter_context(scoring)
        bench = Bench(
            home=job.home,
            run_id=job.run_id,
            plan=plan,
            place=job.place,
            host=host,
            scoring=scoring,
            data_root=job.evaluation.data_root,
            listener=listener,
        )
        while (trial := study.ask(job.trials)) is not None:
            _one(bench, study, trial, tell)


def _one(bench: Bench, study: Study, trial: Trial, tell: Tell) -> None:
    point = study.point(trial.params)
    tell({"event": "began", "trial": trial.number, "params": point})

    def prunes(step: int, value: float) -> bool:
        return study.prunes(trial, step, value)

    ended = run_trial(bench, trial.number, point, prunes)
    study.tell(trial, _STATES[ended.state], ended.value, ended.told)
    study.drop_checkpoints(bench.home)
    store.sync(bench.home, bench.listener.note)
    tell(_told(trial.number, ended))


def _told(number: int, ended: Ended) -> JSON:
    return {
        "event": "ended",
        "trial": number,
        "state": ended.state,
        "value": ended.value,
        "told": dict(ended.told),
    }


def _scoring(job: Job, plan: Plan, listener: _Told) -> Scoring | None:
    if plan.search.objective == LOSS:
        return None
    options = dataclasses.replace(job.evaluation, half="tuning", limit=plan.search.questions)
    task = objective.named(plan.search)
    given = job.place.variables(job.place.evaluate)
    return Scoring(plan.base, task, options, given, listener)


def main() -> int:
    channel = Channel()
    end_with_parent()

    def tell(event: JSON) -> None:
        channel.send(**event)

    try:
        work(job_from_json(json.loads(sys.argv[1])), tell)
    except BenchError as error:
        cause = error.cause if isinstance(error, WorkerError) else "usage"
        channel.send("failed", cause=cause, message=error.message, hint=error.hint)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
