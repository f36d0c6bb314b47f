"""What a trainer is: a method with its parameters, and the files through which it is reached.

A trainer is a module `trainers.<method>` that holds one value `TRAINER` and a function
`main(folder)`. It is started by a launcher as `python -m trainers.<method> FOLDER`, on every
process alike, and is known by files alone:

    recipe.json    in: the `Recipe`, resolved
    train.jsonl    in: one example a line, in the form of the method's `Data`
    steps.jsonl    out: {"step", "epoch", "metric", "value"}, a line for each logged measure
    checkpoint/    out: the trained model with its tokenizer (or adapter), complete when it is there
    checkpoints/   out: checkpoint-<step>, what a training goes on from after a kill
    check.json     in: what `trainers.checking` counted before
    start/         in: the start model with its adapter merged into it, where it had one
    evaluate.json  in: {"steps", "wait"}: steps whose weights are wanted for an evaluation, and
                   whether the training waits for it; absent where none are
    snapshots/     out: checkpoint-<step>, those weights; whoever evaluates them takes the folder
                   away and leaves checkpoint-<step>.done, which a waiting trainer looks for
    outcome.json   out: {"weights_changed": true, false or null where it cannot be told}
    failure-<rank>.json   out: {"cause", "message", "hint"} of an error that ended a process

A training may be looked at on the way (`trainers.points`). Then the weights of its points are what
it leaves, and it writes no `checkpoint/` itself:

    points.json      in: {"count", "save", "wait"}
    held_out.jsonl   in: examples that are not learnt, whose loss is measured at each point
    reached.jsonl    out: {"began"}, then {"point", "step", "loss", "checkpoint"} a point
    points/<step>/   out: the model as it was at that point
    answers.jsonl    in: {"point", "stop"}: whether the training shall end there

Importing such a module loads nothing heavy: torch and TRL are imported inside `main`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.types import JSON, Recipe, recipe_from_json

RECIPE = "recipe.json"
TRAIN = "train.jsonl"
STEPS = "steps.jsonl"
CHECKPOINT = "checkpoint"
CHECKPOINTS = "checkpoints"
START = "start"
OVERLAP = "overlap.jsonl"
CHECK = "check.json"
OUTCOME = "outcome.json"
EVALUATE = "evaluate.json"
SNAPSHOTS = "snapshots"
FAILURE = "failure-{rank}.json"
POINTS = "points.json"
HELD_OUT = "held_out.jsonl"
REACHED = "reached.jsonl"
ANSWERS = "answers.jsonl"

# Set in the environment of a trainer whose stdin closes when the command that started it is gone.
WATCHED = "TUNEBENCH_WATCHED"

Data = Literal["demonstrations", "preferences", "problems"]
"""The form of an example, where a prompt is text or a list of messages {"role", "content"}:

demonstrations: {"prompt", "completion"}. preferences: {"prompt", "chosen", "rejected"}.
problems: {"prompt", "sample"}, with the `Sample` that a task's scorer grades answers against.
Text is joined as it stands; messages are rendered with the chat template of the model. Where the
prompt is messages, a completion is text (one turn of the assistant) or messages as well, of which
the turns of the assistant are learnt.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A training method. params: a frozen dataclass whose fields, types and defaults are the
    method's own parameters. reference: whether it compares with the start model as it goes.
    objective: (name of the logged measure, whether it should rise). check: refuses, by a
    UsageError, a recipe whose parts do not fit together."""

    name: str
    summary: str
    data: Data
    params: type[Any]
    reference: bool = False
    objective: tuple[str, bool] = ("loss", False)
    check: Callable[[Recipe], None] | None = None


def read_recipe(folder: Path) -> Recipe:
    """As resolved; once an adapter was merged, the model is the merged one."""
    recipe = recipe_from_json(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    if recipe.adapter is None or not (folder / START).is_dir():
        return recipe
    whole = str(folder / START)
    return dataclasses.replace(recipe, model_path=whole, model_revision=None, adapter=None)


def read_params(recipe: Recipe, trainer: Trainer) -> Any:
    """The method's parameters as its own dataclass."""
    names = {field.name for field in dataclasses.fields(trainer.params)}
    return trainer.params(**{name: recipe.params[name] for name in recipe.params if name in names})


def read_examples(folder: Path, name: str = TRAIN) -> Iterator[JSON]:
    with (folder / name).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_step(folder: Path, step: int, values: Mapping[str, float], epoch: float = 0.0) -> None:
    """Append what was measured at one optimiser step: a line for each measure."""
    lines = [
        json.dumps({"step": step, "epoch": epoch, "metric": name, "value": value}) + "\n"
        for name, value in values.items()
    ]
    with (folder / STEPS).open("a", encoding="utf-8") as file:
        file.write("".join(lines))
