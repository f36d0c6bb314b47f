"""`bench train-then-eval`: one command from a recipe to a verdict, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.evaluate import key_values, watched
from harness.cli.history import comparison_table, margin_share
from harness.cli.ladder import climb, evidence_text
from harness.cli.options import (
    AsJSON,
    Chat,
    DataRoot,
    EngineSettings,
    Home,
    Judge,
    Limit,
    MaxTokens,
    Offline,
    OwnEngine,
    Seed,
    Shots,
)
from harness.cli.train import DryRun, Recipe, Settings
from harness.cli.verdict import forgetting_table, group_table, question_table, show_forgetting
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.compare import Comparison
    from harness.forgetting import Forgetting
    from harness.gates import Gate, Index
    from harness.pipeline import Options, Outcome
    from harness.types import JSON, Run

_WORSE = 3

Register = Annotated[
    str | None, typer.Option(help="Name of the tuned model; the recipe's unless given.")
]
Outside = Annotated[
    str, typer.Option(help="Tasks outside the training domain, beside the recipe's.")
]
Gates = Annotated[
    list[str] | None,
    typer.Option(help='Must hold, beside the recipe\'s: "not worse(mmlu)"; may be repeated.'),
]
Margin = Annotated[float, typer.Option(help="A loss over so many points matters there.")]
OnlyLast = Annotated[
    bool, typer.Option("--only-last", help="Do not evaluate checkpoints on the way.")
]
FirstRung = Annotated[
    str | None, typer.Option("--from", help="First rung of a ladder that is climbed.")
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Pay for the next rung of a ladder without asking.")
]


def train_then_eval(
    recipe: Recipe,
    settings: Settings = None,
    register: Register = None,
    outside: Outside = "",
    gate: Gates = None,
    margin: Margin = 1.0,
    only_last: OnlyLast = False,
    engine: OwnEngine = "auto",
    engine_settings: EngineSettings = None,
    limit: Limit = None,
    shots: Shots = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    chat: Chat = False,
    judge: Judge = None,
    offline_sample: Offline = False,
    start: FirstRung = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Evaluate the base, train, evaluate the checkpoints, and say if it helped.

    A recipe with rungs is climbed as far as its criteria hold (docs/ladders.md).
    What is done already is found, not repeated. Exit status 3 where a gate does not hold or,
    without gates, any task is worse.
    """
    from harness import evaluate, ladder_recipe, pipeline

    options = pipeline.Options(
        settings=key_values(settings or (), "optimizer.learning_rate=1e-5"),
        register=register,
        outside=tuple(name.strip() for name in outside.split(",") if name.strip()),
        gates=tuple(gate or ()),
        margin=margin_share(margin),
        checkpoints=not only_last,
        evaluation=evaluate.Options(
            engine=engine,
            limit=limit,
            shots=shots,
            max_tokens=max_tokens,
            seed=seed,
            chat=chat,
            judge=judge,
            offline_sample=offline_sample,
            settings=key_values(engine_settings or ()),
            data_root=data_root,
            home=home,
        ),
    )
    if ladder_recipe.is_ladder(recipe, options.settings):
        climb(recipe, options, start=start, yes=yes, dry_run=dry_run, as_json=as_json)
        return
    if yes or start:
        raise UsageError(
            f"`{'--yes' if yes else '--from'}`: `{recipe}` has no rungs", "leave it out"
        )
    if dry_run:
        plan = pipeline.preview(recipe, options)
        output.print_json(plan) if as_json else _show_plan(plan)
        return
    _run(recipe, options, as_json)


def _run(recipe: str, options: Options, as_json: bool) -> None:
    from harness import pipeline, runs

    with watched() as progress:
        done = pipeline.train_then_eval(recipe, options, progress)
    home = runs.home_folder(options.evaluation.home)
    report = _write_report(home, recipe, done)
    if as_json:
        output.print_json({**pipeline.as_json(home, done), "report": report and str(report)})
    else:
        _show(done)
    if report:
        output.say(f"report: {report}")
    if done.failed:
        output.say(done.failed)
        raise typer.Exit(1)
    if not done.passed:
        raise typer.Exit(_WORSE)


def _show_plan(plan: JSON) -> None:
    for name, value in plan.items():
        print(f"{name:<12}  {output.cell(value)}".rstrip())


def _show(done: Outcome) -> None:
    if not done.comparison and not done.indices:
        print(_scores_text(done.base, "table"))
        return
    if done.comparison:
        print("\n".join(done.sentences) + "\n")
        print(output.render(*comparison_table(done.comparison)))
    if done.indices:
        print("\n" + output.render(*_index_table(done.indices)))
    if len(done.points) > 1:
        print("\n" + output.render(*_curve(done)))
    if done.best is not None:
        print(f"\nbest of {len(done.points)} checkpoints on its tasks: {_best_text(done)}")
        print(output.render(*comparison_table(done.best_comparison)))
    if done.outside:
        show_forgetting(done.outside, "table")
    if done.gates:
        print("\n" + output.render(*_gate_table(done.gates)))


def _best_text(done: Outcome) -> str:
    assert done.best is not None
    place = done.best_weights or "its weights were not kept: see `keep_checkpoints`"
    return f"{done.best.model} ({place})"


def _index_table(found: Sequence[Index]) -> tuple[list[str], list[list[object]]]:
    columns = ["index", "metric", "base", "tuned", "delta"]
    return columns, [
        [one.name, one.metric, *(f"{x:.4f}" for x in (one.base, one.tuned)), f"{one.delta:+.4f}"]
        for one in found
    ]


def _gate_table(gates: Sequence[Gate]) -> tuple[list[str], list[list[object]]]:
    return ["gate", "holds", "evidence"], [
        [one.text, "yes" if one.holds else "no", evidence_text(one.evidence)] for one in gates
    ]


def _curve(done: Outcome) -> tuple[list[str], list[list[object]]]:
    """The mean score of each checkpoint on the recipe's tasks."""
    rows: list[list[object]] = [
        ["last" if point.step is None else point.step, point.model, point.score]
        for point in done.points
    ]
    return ["step", "checkpoint", f"mean of {', '.join(done.domain)}"], rows


def _scores_text(found: Sequence[Run], format: str) -> str:
    rows = [[run.model, run.task, run.variant, run.status, run.run_id] for run in found]
    return output.render(["model", "task", "variant", "status", "run"], rows, format)


def _write_report(home: Path, recipe: str, done: Outcome) -> Path | None:
    """report.md in the folder of the training run; None where there is no such run."""
    from harness import pipeline, runs

    if done.trained is None:
        return None
    path = runs.folder_of(home, done.trained.run_id) / pipeline.REPORT
    runs.write_atomically(path, report_text(recipe, done))
    return path


def report_text(recipe: str, done: Outcome) -> str:
    """The report in Markdown: three sentences, then the tables they come from."""
    parts = [f"# {done.model}: did the fine-tune help?", *done.sentences]
    if done.failed:
        parts.append(f"**Not finished:** {done.failed}")
    if done.comparison:
        parts += _verdict_parts(done.comparison, done)
    if done.indices:
        parts += ["## Indices of the whole model", output.render(*_index_table(done.indices), "md")]
    if done.outside:
        parts += _forgetting_parts(done.outside)
    if done.gates:
        parts += ["## Gates", output.render(*_gate_table(done.gates), "md")]
    trained = done.trained
    assert trained is not None
    parts += [
        "## Where it comes from",
        f"Recipe `{recipe}`, trained from `{trained.model}` by run `{trained.run_id}` "
        f"({trained.status}, {trained.seconds:.0f} s); `recipe.json` and `verdict.json` lie beside "
        "this report.",
        "### Evaluations of the base",
        _scores_text(done.base, "md"),
    ]
    tuned = [run for point in done.points for run in point.runs]
    if tuned:
        parts += ["### Evaluations of the checkpoints", _scores_text(tuned, "md")]
    return "\n\n".join(parts) + "\n"


def _verdict_parts(found: Sequence[Comparison], done: Outcome) -> list[str]:
    parts = ["## Verdict", output.render(*comparison_table(found), "md")]
    parts.append(
        "Paired by question; p by McNemar's exact test (graded scores: paired bootstrap), adjusted "
        f"for {len(found)} comparison(s) by Holm."
    )
    if len(done.points) > 1:
        parts += ["## Checkpoints", output.render(*_curve(done), "md")]
    if done.best is not None:
        parts += [
            f"The best of {len(done.points)} checkpoints on its own tasks is {_best_text(done)}. "
            "It was chosen by these very questions, which flatters it:",
            output.render(*comparison_table(done.best_comparison), "md"),
        ]
    return parts


def _forgetting_parts(lost: Sequence[Forgetting]) -> list[str]:
    parts = ["## Outside the training domain", output.render(*forgetting_table(lost), "md")]
    if any(one.groups for one in lost):
        parts += ["### Worst parts", output.render(*group_table(lost), "md")]
    if any(one.lost for one in lost):
        parts += ["### Questions lost", output.render(*question_table(lost), "md")]
    return parts
