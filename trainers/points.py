"""A training that is looked at on the way: a few points at which it is measured and may be ended.

Known by files alone (`harness.trainer` names them), so it works under every launcher that leaves
whole weights on each process. The points are evenly spread over the steps that this training takes,
so that the third of nine is as far into a long one as into a short one. Looking changes nothing in
what is learnt: no random number is drawn, no weight moved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import registry
from harness.trainer import (
    ANSWERS,
    HELD_OUT,
    POINTS,
    REACHED,
    read_examples,
    read_params,
    read_recipe,
)
from harness.types import JSON, Recipe
from trainers.losses import IGNORED

LOOK_S = 0.01


def points_of(folder: Path, *, main: bool) -> Points | None:
    """The points of the training in a folder. main: whether this process writes what is found."""
    path = folder / POINTS
    if not path.exists():
        return None
    return Points(folder, json.loads(path.read_text(encoding="utf-8")), main=main)


class Points:
    """asked: {"count", "save", "wait"}. save: `all` keeps the weights of each point, `best` those
    with a lower loss than any before. wait: whether training stands still for the answer."""

    def __init__(self, folder: Path, asked: JSON, *, main: bool) -> None:
        self.folder, self.main = folder, main
        self.count, self.save, self.wait = asked["count"], asked["save"], asked["wait"]
        self.recipe = read_recipe(folder)
        self.due: dict[int, int] = {}
        self.passed = self.reached = 0
        self.best = float("inf")
        self.rows: list[tuple[list[int], list[int]]] = []

    def begin(self, steps: int, tokenizer: Any) -> None:
        """steps: that the training will take."""
        self.tokenizer = tokenizer
        self.due = spread(self.count, steps)
        if (self.folder / HELD_OUT).exists():
            self.rows = list(_held_out(self.folder, self.recipe, tokenizer))
        self._tell({"began": time.time()})

    def at(self, step: int, model: Any) -> bool:
        """Whether the training shall end after this step, which may be several after the last."""
        reached = [point for due, point in self.due.items() if self.passed < due <= step]
        point = max(reached, default=None)
        self.passed, self.reached = step, point or self.reached
        if point is not None and self.main:
            self._reach(point, step, model)
        return self._answered(point)

    def _reach(self, point: int, step: int, model: Any) -> None:
        loss = None
        if self.rows:
            loss = mean_loss(model, self.rows, self.recipe.micro_batch_size)
        wanted = self.save == "all" or (loss is not None and loss < self.best)
        place = self.folder / "points" / str(step)
        if wanted:
            from trainers.running import write_model

            self.best = self.best if loss is None else loss
            place.parent.mkdir(exist_ok=True)
            write_model(model, self.tokenizer, place, self.recipe)
        kept = str(place) if wanted else None
        self._tell({"point": point, "step": step, "loss": loss, "checkpoint": kept})

    def _answered(self, point: int | None) -> bool:
        """Whether any answer so far says stop; the one to this point may be waited for."""
        while True:
            found = {one["point"]: one["stop"] for one in _lines(self.folder / ANSWERS)}
            if any(stop for number, stop in found.items() if number <= self.reached):
                return True
            if point is None or not self.wait or point in found:
                return False
            time.sleep(LOOK_S)

    def _tell(self, line: JSON) -> None:
        if self.main:
            with (self.folder / REACHED).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def spread(count: int, steps: int) -> dict[int, int]:
    """Step → number of its point, from 1 to `count`, the last at the last step.

    Where steps are fewer than points, a step bears the number of the last point that falls on it.

    >>> spread(3, 90), spread(4, 2)
    ({30: 1, 60: 2, 90: 3}, {1: 3, 2: 4})
    """
    return {max(1, steps * point // count): point for point in range(1, count + 1)}


@torch.no_grad()
def mean_loss(model: Any, rows: Sequence[tuple[list[int], list[int]]], batch: int) -> float:
    """Mean of -log p over all learnt tokens of the rows, in nats, without dropout.

    rows: token ids and labels. The same measure for every method, so that trials with different
    losses of their own can be compared.
    """
    training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(rows), batch):
        ids, mask, labels = _padded(rows[start : start + batch], model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        wanted = labels[:, 1:]
        counted = wanted != IGNORED
        logprobs = logits[counted].float().log_softmax(-1)
        total -= float(logprobs.gather(1, wanted[counted][:, None]).double().sum())
        count += int(counted.sum())
    model.train(training)
    return total / max(count, 1)


def _padded(
    rows: Sequence[tuple[list[int], list[int]]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for number, (row, learnt) in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
        labels[number, : len(row)] = torch.tensor(learnt)
    return ids.to(device), mask.to(device), labels.to(device)


def _held_out(
    folder: Path, recipe: Recipe, tokenizer: Any
) -> Iterator[tuple[list[int], list[int]]]:
    from trainers.demonstrations import tokenizing
    from trainers.tokenizing import Counts

    params = read_params(recipe, registry.trainer(recipe.method))
    examples = read_examples(folder, HELD_OUT)
    for one in tokenizing(recipe, params, tokenizer).examples(examples, Counts()):
        yield one.ids, one.labels


def _lines(path: Path) -> Iterator[JSON]:
    """Whole lines of a file that another process appends to."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
