"""The command line. Importing this module loads nothing heavy: commands import what they need.

Exit status: 0 done, 1 failed, 2 usage, 3 a comparison says "worse", 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from harness.cli import (
    data,
    doctor,
    estimate,
    evaluate,
    history,
    models,
    pipeline,
    power,
    score,
    selfcheck,
    steer,
    tasks,
    train,
    tune,
)
from harness.cli.output import say
from harness.errors import BenchError

app = typer.Typer(
    name="bench",
    help="Evaluate models, compare them with honest statistics, keep every answer.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("eval")(evaluate.evaluate)
app.command("train")(train.train)
app.command("train-then-eval")(pipeline.train_then_eval)
app.command("tune")(tune.tune)
app.command("score")(score.score)
app.command("selfcheck")(selfcheck.selfcheck)
app.command("steer")(steer.steer)
app.command("compare")(history.compare)
app.command("compare-recipes")(estimate.compare_recipes)
app.command("estimate")(estimate.estimate)
app.command("power")(power.power)
app.command("leaderboard")(history.leaderboard)
app.command("sql")(history.sql)
history.runs_app.command("resume")(evaluate.resume)
app.add_typer(history.runs_app, name="runs")
app.add_typer(models.models_app, name="models")
app.add_typer(tasks.tasks_app, name="tasks")
app.add_typer(data.data_app, name="data")
app.add_typer(train.trainers_app, name="trainers")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of `bench` and `tunebench`."""
    try:
        app()
    except BenchError as error:
        say(f"error: {error.message}")
        if error.hint:
            say(f"hint: {error.hint}")
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough.
        sys.stderr.close()
        sys.exit(0)
