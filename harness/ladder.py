"""Climbs a ladder: each rung is measured, its criterion decides, and the next one needs consent.

All stages of a rung are runs of their own that are found again, so a repeated command goes on where
it stopped, and asks nobody twice about the same evidence.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness import compare, decisions, evaluate, gates, ladder_recipe, pipeline, rungs, runs, store
from harness.criteria import Fact
from harness.decisions import Decision
from harness.errors import BenchError, UsageError, WorkerError
from harness.ladder_recipe import Compared, Ladder, Step, Sweep
from harness.pipeline import Outcome
from harness.plan import fingerprint
from harness.provenance import provenance
from harness.registry import tasks as find_tasks
from harness.rungs import Price
from harness.session import Listener, Silent
from harness.stages import Options
from harness.types import JSON, Run, RunStatus

Consent = Literal["asked", "--yes", "no", "later"]
Ask = Callable[[Decision, Price], Consent]
"""Whether to pay for the next rung: somebody was asked and agreed, agreed beforehand, did not
agree, or is not there to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """decisions: one for each rung that was measured, in order. outcomes: of their trainings, by
    rung. prices: of all rungs. failed: the stage that did not end well, '' where all did."""

    ladder: Ladder
    run: Run
    prices: tuple[Price, ...]
    decisions: tuple[Decision, ...]
    outcomes: Mapping[str, tuple[Outcome, ...]]
    failed: str

    @property
    def last(self) -> Decision | None:
        return self.decisions[-1] if self.decisions else None


@dataclass(slots=True, kw_only=True)
class _Measured:
    """What one rung found."""

    facts: dict[str, Fact]
    run_ids: list[str]
    outcomes: list[Outcome]
    failed: str = ""


def climb(
    name: str,
    options: Options,
    ask: Ask,
    listener: Listener | None = None,
    start: str | None = None,
) -> Climbed:
    """Climb from the first rung (or `start`) as far as criteria hold and `ask` agrees.

    Raises BenchError for what can be known before the first stage of any rung.
    """
    told = listener or Silent()
    home = runs.home_folder(options.evaluation.home)
    ladder = ladder_recipe.read(name, options.settings, options.register)
    prices = rungs.prices(ladder, home, options.evaluation.data_root)
    first = _first(ladder, start)
    rungs.check(ladder.steps[first:], options.outside, home)
    with _opened(home, ladder, options, start, told) as run:
        return _Climb(home, ladder, prices, options, ask, told).up(run, first)


def _first(ladder: Ladder, start: str | None) -> int:
    names = [step.name for step in ladder.steps]
    if start is not None and start not in names:
        raise UsageError(f"`{ladder.name}` has no rung `{start}`", f"it has: {', '.join(names)}")
    return names.index(start) if start is not None else 0


@contextmanager
def _opened(
    home: Path, ladder: Ladder, options: Options, start: str | None, told: Listener
) -> Iterator[Run]:
    """The ladder's run, one that goes on or a new one, while nobody else has it."""
    asked = _new_run(ladder, options, start)
    for other in runs.earlier(home, asked):
        held = runs.lock(runs.folder_of(home, other.run_id))
        if held is None:
            raise UsageError(
                f"the ladder `{ladder.name}` is being climbed by another process already: "
                f"`{other.run_id}`",
                "wait for its end: the same command then goes on from there",
            )
        told.note(f"going on with {other.run_id}")
        run = replace(other, status="running", cause=None, error=None, argv=asked.argv)
        runs.write_manifest(home, run)
        break
    else:
        run, held = asked, runs.create_with(home, asked, {})
    try:
        yield run
    finally:
        os.close(held)
        store.sync(home, told.note)


def _new_run(ladder: Ladder, options: Options, start: str | None) -> Run:
    origin, asked = provenance(), options.evaluation
    # What is asked of the models, not where their data and the history lie.
    how = {
        name: getattr(asked, name)
        for name in ("engine", "limit", "shots", "max_tokens", "seed", "chat", "judge")
    }
    parts: JSON = {
        "ladder": ladder.values,
        "register": options.register,
        "outside": options.outside,
        "evaluation": {**how, "offline": asked.offline_sample, "settings": dict(asked.settings)},
        "start": start,
    }
    return Run(
        run_id=runs.new_run_id("ladder", ladder.model, ladder.name),
        kind="ladder",
        status="running",
        model=ladder.model,
        recipe={"name": ladder.name, "asked": ladder.values},
        n_samples=len(ladder.steps),
        started_at=runs.now(),
        git_commit=origin.git_commit,
        git_dirty=origin.git_dirty,
        packages=origin.packages,
        argv=origin.argv,
        key=fingerprint(parts),
    )


class _Climb:
    """One climb of a ladder that was found sound."""

    def __init__(
        self,
        home: Path,
        ladder: Ladder,
        prices: Sequence[Price],
        options: Options,
        ask: Ask,
        told: Listener,
    ) -> None:
        self.home, self.ladder, self.prices = home, ladder, prices
        self.options, self.ask, self.told = options, ask, told
        self.decisions: list[Decision] = []
        self.outcomes: dict[str, tuple[Outcome, ...]] = {}

    def up(self, run: Run, first: int) -> Climbed:
        begun = time.monotonic()
        try:
            failed = self._rungs(run, first)
        except KeyboardInterrupt:
            self._ended(run, begun, "interrupted", "interrupted", "interrupted by the user")
            raise
        except BenchError as error:
            cause = error.cause if isinstance(error, WorkerError) else "refused"
            self._ended(run, begun, "failed", cause, error.message)
            raise
        last = self.decisions[-1] if self.decisions else None
        if failed:
            ended = self._ended(run, begun, "failed", "stage_failed", failed)
        elif last is not None and last.decision == "wait":
            text = f"the rung `{last.next_rung}` needs consent"
            ended = self._ended(run, begun, "interrupted", "consent", text)
        else:
            ended = self._ended(run, begun, "done", None, None)
        return Climbed(
            ladder=self.ladder,
            run=ended,
            prices=tuple(self.prices),
            decisions=tuple(self.decisions),
            outcomes=self.outcomes,
            failed=failed,
        )

    def _rungs(self, run: Run, first: int) -> str:
        """Each rung in turn; the stage that failed, if one did."""
        folder = runs.folder_of(self.home, run.run_id)
        earlier = decisions.read(folder)
        for index in range(first, len(self.ladder.steps)):
            step = self.ladder.steps[index]
            self.told.note(
                f"rung {index + 1} of {len(self.ladder.steps)}, {step.name}: "
                f"{self.prices[index].text}"
            )
            found = self._measured(step)
            found.failed = found.failed or _unmeasured(step, found)
            self.outcomes[step.name] = tuple(found.outcomes)
            if found.failed:
                return f"rung `{step.name}`: {found.failed}"
            decision = self._decided(index, found, earlier)
            self.decisions.append(decision)
            decisions.write(folder, self.decisions)
            if decision.decision != "escalate":
                return ""
        return ""

    def _measured(self, step: Step) -> _Measured:
        found = _Measured(facts={}, run_ids=[], outcomes=[])
        for one in step.trainings:
            asked = replace(self.options, settings=one.set, register=one.made)
            done = pipeline.train_then_eval(one.recipe, asked, self.told)
            found.outcomes.append(done)
            found.run_ids += _ids(done)
            if done.failed:
                found.failed = done.failed
                return found
            # Where two trainings measure one task, the last one's model is what the rung is about.
            found.facts |= gates.facts(done.comparison, done.outside, done.indices)
        if step.rung.compare is not None:
            self._compare(step.rung.compare, found)
        if step.rung.steer is not None and not found.failed:
            self._steer(step, step.rung.steer, found)
        return found

    def _compare(self, pair: Compared, found: _Measured) -> None:
        tasks = find_tasks(",".join(pair.tasks))
        asked = self.options.evaluation
        done = evaluate.evaluate([pair.base, pair.tuned], tasks, asked, listener=self.told)
        found.run_ids += [run.run_id for run in done]
        found.failed = _not_done(done)
        if found.failed:
            return
        base, tuned = done[: len(tasks)], done[len(tasks) :]
        paired = [(a, b) for a, b in zip(base, tuned, strict=True) if not pipeline.is_index(b)]
        ids = [(a.run_id, b.run_id) for a, b in paired]
        found.facts |= gates.facts(compare.of_pairs(self.home, ids, self.told.note), (), ())
        for a, b in zip(base, tuned, strict=True):
            if pipeline.is_index(b):
                was, now = runs.primary(self.home, a), runs.primary(self.home, b)
                found.facts[b.task_id] = {"base": was, "value": now, "delta": now - was}

    def _steer(self, step: Step, sweep: Sweep, found: _Measured) -> None:
        from harness.steering.experiment import steer

        asked, own = self.options.evaluation, rungs.sweep_options(sweep, step.name)
        offline = own.offline_sample or asked.offline_sample
        root = own.data_root or asked.data_root
        options = replace(own, offline_sample=offline, data_root=root, home=self.home)
        swept = steer(sweep.model, sweep.lambdas, options, self.told)
        found.run_ids.append(swept.run.run_id)
        if swept.run.status != "done":
            found.failed = _not_done([swept.run])
            return
        found.facts |= sweep_facts(swept.result)

    def _decided(self, index: int, found: _Measured, earlier: Sequence[Decision]) -> Decision:
        step, price = self.ladder.steps[index], self.prices[index]
        top = index + 1 == len(self.ladder.steps)
        own = [gate for outcome in found.outcomes for gate in outcome.gates]
        holds = step.success.holds(found.facts) and all(gate.holds for gate in own)
        one = Decision(
            rung=index + 1,
            name=step.name,
            criterion=step.success.text,
            holds=holds,
            evidence=step.success.evidence(found.facts) | {one.text: one.holds for one in own},
            decision="top" if holds else "stop",
            decided_by="criterion",
            decided_at=runs.now(),
            hours=price.hours,
            usd=price.usd,
            run_ids=tuple(dict.fromkeys(found.run_ids)),
        )
        if not holds or top:
            return one
        above = self.prices[index + 1]
        one = replace(
            one,
            next_rung=self.ladder.steps[index + 1].name,
            next_hours=above.hours,
            next_usd=above.usd,
        )
        return decisions.agreed(earlier, one) or self._asked(one, above)

    def _asked(self, one: Decision, above: Price) -> Decision:
        match self.ask(one, above):
            case "no":
                return replace(one, decision="declined", decided_by="asked")
            case "later":
                return replace(one, decision="wait")
            case agreed:
                return replace(one, decision="escalate", decided_by=agreed)

    def _ended(
        self, run: Run, begun: float, status: RunStatus, cause: str | None, error: str | None
    ) -> Run:
        seconds = round(run.seconds + time.monotonic() - begun, 3)
        ended = replace(run, status=status, cause=cause, error=error, finished_at=runs.now())
        return runs.write_manifest(self.home, replace(ended, seconds=seconds))


def sweep_facts(result: JSON) -> dict[str, Fact]:
    """What `bench steer --json` found, in the words of criteria: `aqi` is the separation, with its
    tests; `p` is that of the trend."""
    curve = sorted(
        (point for point in result["points"] if point["control"] == "none"),
        key=lambda point: float(point["lambda"]),
    )
    difference = result["difference"]
    facts: dict[str, Fact] = {
        "aqi": {
            "base": curve[0]["separation"],
            "value": curve[-1]["separation"],
            "delta": difference["value"],
            "low": difference["ci_low"],
            "high": difference["ci_high"],
            "p": result["trend_p"],
            "monotone": result["monotone"],
            "rises": result["verdict"] == "rises",
        }
    }
    for name in rungs.INDICES:
        values = [point[name] for point in curve if point[name] is not None]
        if len(values) == len(curve):
            steady = all(a <= b for a, b in itertools.pairwise(values))
            ends = {"base": values[0], "value": values[-1], "delta": values[-1] - values[0]}
            facts[name] = {**ends, "monotone": steady}
    return facts


def _ids(done: Outcome) -> list[str]:
    trained = [] if done.trained is None else [done.trained]
    tuned = [run for point in done.points for run in point.runs]
    return [run.run_id for run in (*done.base, *trained, *tuned)]


def _unmeasured(step: Step, found: _Measured) -> str:
    """A measure that could not be taken after all, as a probe on too few prompts cannot."""
    missing = [one.text for one in step.success.terms() if one.measure not in found.facts]
    return f"there is no {missing[0]}" if missing else ""


def _not_done(found: Sequence[Run]) -> str:
    for run in found:
        if run.status != "done":
            return f"`{run.run_id}` {run.status}: {run.error or run.cause}"
    return ""
