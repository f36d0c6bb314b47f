"""`bench tune`: search for the values of a recipe that train the best model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import output
from harness.cli.evaluate import key_values, watched
from harness.cli.history import comparison_table
from harness.cli.options import (
    AsJSON,
    Chat,
    DataRoot,
    EngineSettings,
    Home,
    Judge,
    MaxTokens,
    Offline,
    OwnEngine,
    Seed,
    Shots,
)
from harness.cli.train import DryRun, Recipe, Settings

if TYPE_CHECKING:
    from harness.tuning.plan import Options
    from harness.tuning.report import Outcome

_WORSE = 3
REPORT = "report.md"


def tune(
    recipe: Recipe,
    settings: Settings = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials of the study in all, instead of the recipe's.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Trials at a time.")] = 1,
    study: Annotated[
        str | None, typer.Option(help="Name of the study; the recipe's unless given.")
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="Name of the best model in the model registry.")
    ] = None,
    engine: OwnEngine = "auto",
    engine_settings: EngineSettings = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask only N questions of each task in the final report.")
    ] = None,
    shots: Shots = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    chat: Chat = False,
    judge: Judge = None,
    offline_sample: Offline = False,
    dry_run: DryRun = False,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Try values of a recipe's fields, end poor trials early, report on the best.

    The same command goes on with the study. Exit status 3 where the best model is worse than the
    base on any task.
    """
    from harness import evaluate
    from harness.tuning.plan import Options

    options = Options(
        settings=key_values(settings or (), "optimizer.learning_rate=1e-5"),
        trials=trials,
        workers=workers,
        study=study,
        register=register,
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
    _require_optuna()
    if dry_run:
        _show_plan(recipe, options, as_json)
        return
    done = _tuned(recipe, options, as_json)
    if done.failure is not None:
        output.say(f"error: {done.failure.message}\nhint: {done.failure.hint}")
        raise typer.Exit(1)
    if any(one.verdict == "worse" for one in done.comparison):
        raise typer.Exit(_WORSE)


def _require_optuna() -> None:
    import importlib.util

    from harness.errors import UsageError

    for module in ("optuna", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"`bench tune` needs `{module}`", "`pip install 'tunebench[tune]'`")


def _tuned(recipe: str, options: Options, as_json: bool) -> Outcome:
    from harness import runs
    from harness.tuning.report import as_json as outcome_json
    from harness.tuning.tune import tune as search

    with watched() as progress:
        done = search(recipe, options, progress)
    folder = runs.folder_of(runs.home_folder(options.evaluation.home), done.run.run_id)
    path = folder / REPORT
    runs.write_atomically(path, report_text(recipe, done, folder))
    if as_json:
        output.print_json({**outcome_json(done), "report": str(path)})
    else:
        _show(done)
    output.say(f"report: {path}")
    return done


def _show_plan(recipe: str, options: Options, as_json: bool) -> None:
    from harness.tuning.tune import preview

    told = preview(recipe, options)
    if as_json:
        output.print_json(told)
        return
    for name in ("recipe", "study", "trials", "trials_there", "examples"):
        print(f"{name:<12}  {told[name]}")
    for one in told["space"]:
        ends = one["choices"] or (one["low"], one["high"])
        print(f"varied        {one['path']}: {ends[0]} to {ends[-1]}")


def _show(done: Outcome) -> None:
    print(output.render(*trial_table(done)))
    if done.best is None:
        return
    print(f"\n{_best_sentence(done)}")
    if done.comparison:
        print("\n" + output.render(*comparison_table(done.comparison)))
    print(f"\nrecipe: {done.recipe}")
    for why in done.missing:
        output.say(f"no plot of {why}")


def _best_sentence(done: Outcome) -> str:
    assert done.best is not None
    best = done.best
    return (
        f"The best of {len(done.trials)} trials is trial {best['trial']}: {done.objective} "
        f"{best['value']:.4f} at step {best['best_step']}."
    )


def trial_table(done: Outcome) -> tuple[list[str], list[list[object]]]:
    paths = list(dict.fromkeys(path for one in done.trials for path in one["params"]))
    kinds = [kind for kind in ("correct", "wrong", "format_failure") if _any(done, kind)]
    columns = ["trial", "state", *paths, done.objective, "best at", "ended at", *kinds, "cause"]
    return columns, [
        [
            *(one["trial"], one["state"], *(one["params"].get(path) for path in paths)),
            *(one["value"], one["best_step"], one["last_step"]),
            *(one[kind] for kind in kinds),
            one["cause"] or "",
        ]
        for one in done.trials
    ]


def _any(done: Outcome, column: str) -> bool:
    return any(one[column] is not None for one in done.trials)


def report_text(recipe: str, done: Outcome, folder: Path) -> str:
    """The report in Markdown."""
    parts = [f"# {done.study}: what {len(done.trials)} trials of `{recipe}` found"]
    if done.failure is not None:
        parts.append(f"**Not finished:** {done.failure.message}")
    if done.best is not None:
        parts.append(_best_sentence(done))
        parts.append("Its values, as a recipe that `bench train` takes, are in `best.yaml`.")
    if done.comparison:
        parts += [
            "## The best model beside the base",
            "On questions by which nothing was chosen: of the task that trials were judged by, the "
            "half that they were not asked.",
            output.render(*comparison_table(done.comparison), "md"),
        ]
    parts += ["## Trials", output.render(*trial_table(done), "md")]
    parts += [f"![{path.stem}]({path.relative_to(folder)})" for path in done.plots]
    parts += [f"No plot of {why}." for why in done.missing]
    return "\n\n".join(parts) + "\n"
