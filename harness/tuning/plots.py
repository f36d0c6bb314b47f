"""Pictures of a study, by Optuna and matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import optuna
from optuna.trial import TrialState

from harness.tuning.study import Study

PLOTS = "plots"


def draw(study: Study, folder: Path, objective: str) -> tuple[list[Path], list[str]]:
    """The files that were written, and why others were not.

    The history, one slice and one parallel coordinate for each trial that ran to its end, and how
    much of the differences each parameter explains.
    """
    import matplotlib

    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as pictures

    own = _without_cut(study)
    done = [one for one in own.trials if one.state == TrialState.COMPLETE]
    drawn: list[tuple[str, Callable[[], Any], int]] = [
        ("history", lambda: pictures.plot_optimization_history(own, target_name=objective), 1),
        ("slice", lambda: pictures.plot_slice(own, target_name=objective), 1),
        (
            "parallel_coordinate",
            lambda: pictures.plot_parallel_coordinate(own, target_name=objective),
            1,
        ),
        ("importance", lambda: pictures.plot_param_importances(own, target_name=objective), 2),
    ]
    files, missing = [], []
    for name, plot, least in drawn:
        if len(done) < least:
            missing.append(f"{name}: {len(done)} trial(s) ran to the end, it needs {least}")
            continue
        if name == "importance" and len({one.value for one in done}) < 2:
            missing.append("importance: all trials have the same value")
            continue
        files.append(_save(plot, folder / f"{name}.png"))
    return files, missing


def _without_cut(study: Study) -> optuna.Study:
    """The study without trials that were cut off with their worker."""
    source = study.optuna
    copy = optuna.create_study(direction=source.direction)
    for one in study.trials():
        if one.state.is_finished():
            copy.add_trial(one)
    return copy


def _save(plot: Callable[[], Any], path: Path) -> Path:
    from matplotlib import pyplot

    with warnings.catch_warnings():
        # That pictures are experimental, and that one value alone makes a narrow axis.
        warnings.simplefilter("ignore")
        found = plot()
    figure = numpy.ravel(found)[0].get_figure()  # one or several axes
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return path
