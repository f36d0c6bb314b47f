"""A ladder on the command line: what each rung costs, what was found, and who is asked."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from harness.cli import output
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.decisions import Decision
    from harness.ladder import Ask, Climbed, Consent
    from harness.ladder_recipe import Ladder
    from harness.rungs import Price
    from harness.stages import Options
    from harness.types import JSON

_STOPPED = 3


def climb(
    name: str, options: Options, *, start: str | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Exit status 0 at the top, 1 where a stage failed or somebody said no, 2 where consent is
    needed, 3 where a criterion does not hold."""
    from harness import ladder
    from harness.cli.evaluate import watched

    if dry_run:
        _preview(name, options, as_json)
        return
    with watched() as progress:
        done = ladder.climb(name, options, _ask(yes), progress, start)
    if as_json:
        output.print_json(climbed_json(done))
    else:
        _show(done)
    _end(done)


def _ask(yes: bool) -> Ask:
    def ask(one: Decision, above: Price) -> Consent:
        output.say(f"rung `{one.name}`: {one.criterion} holds ({evidence_text(one.evidence)})")
        if yes:
            return "--yes"
        if not sys.stdin.isatty():
            return "later"
        question = f"climb `{one.next_rung}` for {above.text}?"
        return "asked" if typer.confirm(question, err=True) else "no"

    return ask


def _preview(name: str, options: Options, as_json: bool) -> None:
    from harness import ladder_recipe, rungs, runs

    home = runs.home_folder(options.evaluation.home)
    found = ladder_recipe.read(name, options.settings, options.register)
    data_root = options.evaluation.data_root
    prices = rungs.prices(found, home, data_root)
    rows = _rows(found, prices)
    if as_json:
        output.print_json([dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    else:
        print(output.render(_COLUMNS, rows))
        for step, price in zip(found.steps, prices, strict=True):
            output.say(f"{step.name}: {price.source}")
    rungs.check(found.steps, options.outside, home)


_COLUMNS = ("rung", "name", "does", "hours", "USD", "climbs on if")


def _rows(found: Ladder, prices: Sequence[Price]) -> list[list[object]]:
    rows: list[list[object]] = []
    for index, (step, price) in enumerate(zip(found.steps, prices, strict=True), 1):
        does = [f"trains {one.made}" for one in step.trainings]
        if step.rung.compare is not None:
            does.append(f"compares {step.rung.compare.base} and {step.rung.compare.tuned}")
        if step.rung.steer is not None:
            does.append(f"steers {step.rung.steer.model}")
        costs = [None if x is None else round(x, 2) for x in (price.hours, price.usd)]
        rows.append([index, step.name, "; ".join(does), *costs, step.success.text])
    return rows


def _show(done: Climbed) -> None:
    print(decision_table(done.decisions))
    for name, outcomes in done.outcomes.items():
        for outcome in outcomes:
            for sentence in outcome.sentences[:1]:
                print(f"{name}: {sentence}")
    output.say(f"{done.run.run_id}  {done.run.status}")


_DECIDED = ("rung", "name", "criterion", "evidence", "holds", "decision")


def decision_table(found: Sequence[Decision]) -> str:
    return output.render(_DECIDED, [_decided(one) for one in found])


def _decided(one: Decision) -> list[object]:
    holds = "yes" if one.holds else "no"
    evidence = evidence_text(one.evidence)
    return [one.rung, one.name, one.criterion, evidence, holds, _said(one)]


def _said(one: Decision) -> str:
    match one.decision:
        case "escalate":
            return f"climb {one.next_rung} ({one.decided_by})"
        case "wait":
            return f"{one.next_rung} waits for consent"
        case "declined":
            return f"{one.next_rung} was declined"
        case "stop":
            return "stop: it does not hold"
        case "top":
            return "top: it holds"


def _end(done: Climbed) -> None:
    if done.failed:
        output.say(done.failed)
        raise typer.Exit(1)
    last = done.last
    if last is None or last.decision == "top":
        return
    if last.decision == "wait":
        price = next(
            price
            for step, price in zip(done.ladder.steps, done.prices, strict=True)
            if step.name == last.next_rung
        )
        raise UsageError(
            f"the next rung `{last.next_rung}` takes {price.text}, and nobody is there to agree",
            f"`{_command()} --yes` goes on",
        )
    raise typer.Exit(_STOPPED if last.decision == "stop" else 1)


def _command() -> str:
    """This command, to be repeated."""
    return " ".join(["bench", *map(shlex.quote, sys.argv[1:])])


def climbed_json(done: Climbed) -> JSON:
    from harness import decisions

    last = done.last
    return {
        "run_id": done.run.run_id,
        "ladder": done.ladder.name,
        "status": done.run.status,
        "failed": done.failed or None,
        "decision": last.decision if last else None,
        "rungs": [decisions.as_json(one) for one in done.decisions],
    }


def evidence_text(evidence: JSON) -> str:
    """Each term of a criterion with its value."""
    said = {True: "yes", False: "no"}
    return ", ".join(
        f"{term} {said[value] if isinstance(value, bool) else f'{value:.4g}'}"
        for term, value in evidence.items()
    )
