"""The questions of one run: samples in order, and the request for each with its examples."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from harness.datasets import DatasetNotFoundError, Loaded, load, packaged
from harness.errors import DataError, UsageError
from harness.halves import Half, places
from harness.lm_eval_task import is_lm_eval
from harness.task import Embedding, Task, draw_shots, render
from harness.types import Dataset, Request, Sample

SIDES = ("safe", "unsafe")
LEAST_OF_A_CLASS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a run is going to ask.

    samples: in the order of the split. examples: those shown before each of `samples`. shots: how
    many that are. seed: of the draw, None where nothing is drawn by chance. limit: what cut the
    split. half: which part of the questions was asked, all for None. offline: the questions that
    ship with the task were taken. revision: of the dataset. source: the place that had it. files:
    that were read.
    """

    task: Task
    samples: tuple[Sample, ...]
    examples: tuple[tuple[Sample, ...], ...]
    shots: int
    seed: int | None
    chat: bool
    limit: int | None
    half: Half | None
    offline: bool
    revision: str
    source: str
    files: tuple[Path, ...]

    def requests(self) -> Iterator[Request]:
        """One request for each of `samples`, rendered as it is asked for: few-shot prompts of a
        whole benchmark are too long to be held twice."""
        for sample, shots in zip(self.samples, self.examples, strict=True):
            yield render(self.task, sample, shots, chat=self.chat)


def questions(
    task: Task,
    *,
    data_root: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    seed: int | None = None,
    chat: bool = False,
    offline: bool = False,
    half: Half | None = None,
) -> Questions:
    """The questions of a task.

    limit: only as many, taken in turn from the task's groups. half: only those of that part, which
    then counts as cut. shots, seed: instead of the
    protocol's. offline: the questions that ship with the task, instead of the benchmark.
    Raises UsageError for shots that the task cannot show, DataError for what is wrong with the
    data.
    """
    if is_lm_eval(task):
        raise UsageError(
            f"`{task.id}` is rendered by lm-eval, not here",
            f"`bench eval --tasks {task.id} --dry-run` shows its first prompt",
        )
    n_shots = _shot_count(task, shots)
    loaded = _load(task, task.dataset, data_root, offline)
    samples = _samples(task, loaded)
    drawn, pool_files = _draw(task, samples, n_shots, seed, data_root, offline)
    asked = _asked(task, samples, limit, half)
    return Questions(
        task=task,
        samples=tuple(samples[i] for i in asked),
        examples=tuple(drawn[i] for i in asked),
        shots=n_shots,
        seed=_draw_seed(task, n_shots, seed),
        # Questions that are messages are asked in the template anyway: one protocol, not two.
        chat=chat or not all(isinstance(sample.input, str) for sample in samples),
        limit=len(asked) if half else limit,
        half=half,
        offline=offline,
        revision=loaded.revision,
        source="offline sample" if offline else loaded.source,
        files=tuple(path for path, _ in loaded.files) + pool_files,
    )


def _asked(
    task: Task, samples: Sequence[Sample], limit: int | None, half: Half | None
) -> list[int]:
    """Places of the questions to ask."""
    if task.embedding:
        if half:
            raise UsageError(
                f"the prompts of `{task.id}` are compared with each other and have no halves",
                "take a task with answers",
            )
        return _cells(task.embedding, samples, limit)
    if half is None:
        return _spread(samples, limit)
    own = places(task, samples, half)
    return [own[i] for i in _spread([samples[place] for place in own], limit)]


def _shot_count(task: Task, shots: int | None) -> int:
    if shots is None:
        return task.fewshot.n if task.fewshot else 0
    if shots < 0:
        raise UsageError(f"`--shots {shots}` is negative", "use 0 or more")
    if shots and task.fewshot is None:
        raise UsageError(
            f"`--shots {shots}`: `{task.id}` has no examples to show", "leave --shots out"
        )
    return shots


def _draw_seed(task: Task, shots: int, seed: int | None) -> int | None:
    if not shots or task.fewshot is None or task.fewshot.rule != "random":
        return None
    return task.fewshot.seed if seed is None else seed


def _load(task: Task, dataset: Dataset, data_root: Path | None, offline: bool) -> Loaded:
    source = packaged(dataset, task.offline) if offline else dataset
    try:
        return load(source, task.columns, data_root=data_root)
    except DatasetNotFoundError as error:
        own = "give `--prompts FILE` (columns input, safety_label, axiom), or " * bool(
            task.embedding
        )
        hint = f"{error.hint}; or {own}try `{task.id}` with `--offline-sample`, the few questions"
        raise DatasetNotFoundError(error.message, f"{hint} that ship with it") from None


def _samples(task: Task, loaded: Loaded) -> list[Sample]:
    samples = []
    for index, row in enumerate(loaded.rows):
        try:
            samples.append(task.to_sample(row, index))
        except DataError as error:
            raise DataError(f"{loaded.where(index)}: {error.message}", error.hint) from None
    _check_ids(samples, loaded)
    return samples


def _check_ids(samples: Iterable[Sample], loaded: Loaded) -> None:
    """Answers are stored by id, so two questions of one id would overwrite each other."""
    seen: dict[str, int] = {}
    for index, sample in enumerate(samples):
        first = seen.setdefault(sample.id, index)
        if first != index:
            raise DataError(
                f"{loaded.where(index)} has the id `{sample.id}` of {loaded.where(first)}",
                "give each row an id of its own",
            )


def _draw(
    task: Task,
    samples: Sequence[Sample],
    n: int,
    seed: int | None,
    data_root: Path | None,
    offline: bool,
) -> tuple[list[tuple[Sample, ...]], tuple[Path, ...]]:
    """The examples before each question, and the files that they came from."""
    if n == 0 or task.fewshot is None:
        return [()] * len(samples), ()
    if task.fewshot.dataset is None:
        return list(draw_shots(task, samples, task.fewshot.examples, n, seed)), ()
    loaded = _load(task, task.fewshot.dataset, data_root, offline)
    pool = _samples(task, loaded)
    drawn = list(draw_shots(task, samples, pool, n, seed))
    return drawn, tuple(path for path, _ in loaded.files)


def _spread(samples: Sequence[Sample], limit: int | None) -> list[int]:
    """Places of the first `limit` questions, taken in turn from the groups, in the split's order.

    >>> [Sample(id=str(i), input="", target="", group=g) for i, g in enumerate("aab")] and _spread(
    ...     [Sample(id=str(i), input="", target="", group=g) for i, g in enumerate("aab")], 2)
    [0, 2]
    """
    if limit is None or limit >= len(samples):
        return list(range(len(samples)))
    by_group: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        by_group.setdefault(sample.group, []).append(place)
    rounds = zip_longest(*by_group.values())
    in_turn = (place for places in rounds for place in places if place is not None)
    return sorted(place for place, _ in zip(in_turn, range(limit), strict=False))


def _cells(embedding: Embedding, samples: Sequence[Sample], limit: int | None) -> list[int]:
    """Places of `per_cell` samples of each group and label, drawn by the seed, in their order.

    limit: of them all, taken in turn from the cells. Raises DataError where a class has fewer than
    ten: no index and no probe means anything then.
    """
    cells: dict[tuple[str, str], list[int]] = {}
    for place, sample in enumerate(samples):
        cells.setdefault((sample.group, sample.target), []).append(place)
    generator = random.Random(embedding.seed)
    drawn = [
        generator.sample(places, min(embedding.per_cell, len(places)))
        for _, places in sorted(cells.items())
    ]
    in_turn = [place for places in zip_longest(*drawn) for place in places if place is not None]
    asked = sorted(in_turn if limit is None else in_turn[:limit])
    counts = Counter(samples[place].target for place in asked)
    for label in SIDES:
        if counts[label] < LEAST_OF_A_CLASS:
            cut = f" among the {limit} of `--limit`" if limit is not None else ""
            raise DataError(
                f"there are {counts[label]} {label} prompts{cut}, and at least "
                f"{LEAST_OF_A_CLASS} of each class are needed",
                "give more prompts (`--prompts FILE`), or a higher `--limit`",
            )
    return asked
