"""What a sweep is to do, checked before any model is started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.embedding_options import existing_layers, own_embedding
from harness.engines.base import parse_settings
from harness.engines.steer_settings import NORMS, parse_layers
from harness.errors import BenchError, UsageError, did_you_mean
from harness.questions import Questions, questions
from harness.registry import tasks as find_tasks
from harness.steering.pair import Pair, find_pair
from harness.steering.points import parse_lambdas
from harness.steering.texts import Texts, preference_texts
from harness.task import Task
from harness.types import JSON

MODES = {"sanity": (100, 100), "full": (500, 1000)}
"""Prompts of each group and label, and texts for the vector, as the D-STEER project has them."""

DEFAULT_LAYERS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerOptions:
    """How to sweep. layers: that are steered, '' for the last five. vector: mean or svd, of the
    `side` (chosen or rejected) of `texts`, pooled as `vector_pooling` says. norm: keep or free.
    controls: random directions. seeds: random halves over which the curve must be monotone.
    prompts, aqi_layers, pooling, reduction: of the task `aqi`. settings: of engine `hf`."""

    mode: str = "sanity"
    tasks: str = "aqi"
    limit: int | None = None
    layers: str = ""
    vector: str = "mean"
    side: str = "chosen"
    vector_pooling: str = "last"
    norm: str = "keep"
    controls: int = 19
    seeds: int = 3
    prompts: str | None = None
    texts: str | None = None
    aqi_layers: str | None = None
    pooling: str | None = None
    reduction: str | None = None
    fresh: bool = False
    offline_sample: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    data_root: Path | None = None
    home: Path | None = None

    @property
    def embedding(self) -> _Embedding:
        return _Embedding(self.prompts, self.aqi_layers, self.pooling, self.reduction)


@dataclass(frozen=True, slots=True)
class _Embedding:
    prompts: str | None
    layers: str | None
    pooling: str | None
    reduction: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Everything that a sweep needs, checked. layers: steered, from 0. others: names of the
    tasks beside."""

    pair: Pair
    lambdas: tuple[float, ...]
    layers: tuple[int, ...]
    taken: tuple[int, ...]
    asked: Questions
    others: tuple[str, ...]
    texts: Texts
    settings: JSON
    options: SteerOptions
    width: int


def checked(names: str, lambdas: str, options: SteerOptions, home: Path) -> Experiment:
    """Raises BenchError for whatever would stop the sweep later."""
    check_options(options)
    strengths = parse_lambdas(lambdas)
    pair = find_pair(names, home)
    count, width = _size(pair)
    aqi, others = _tasks(options)
    embedding = aqi.embedding
    assert embedding is not None
    wanted = f"-{min(DEFAULT_LAYERS, count)}:-1" if not options.layers else options.layers
    return Experiment(
        pair=pair,
        lambdas=strengths,
        layers=existing_layers(parse_layers(wanted), count, pair.base.name),
        taken=existing_layers(embedding.layers, count, pair.base.name),
        asked=questions(
            aqi,
            data_root=options.data_root,
            limit=options.limit,
            offline=options.offline_sample,
        ),
        others=others,
        texts=preference_texts(
            options.texts,
            options.side,
            MODES[options.mode][1],
            data_root=options.data_root,
            offline=options.offline_sample,
        ),
        settings=parse_settings("hf", dict(options.settings)),
        options=options,
        width=width,
    )


def check_options(options: SteerOptions) -> None:
    """Raises UsageError for an unknown word or a number that is too small."""
    known = {
        "mode": tuple(MODES),
        "vector": ("mean", "svd"),
        "side": ("chosen", "rejected"),
        "vector_pooling": ("last", "mean"),
        "norm": NORMS,
    }
    for name, values in known.items():
        if (value := getattr(options, name)) not in values:
            option = name.replace("_", "-")
            hint = did_you_mean(value, values, f"one of {', '.join(values)}")
            raise UsageError(f"`--{option} {value}` is unknown", hint)
    for name in ("controls", "seeds"):
        if getattr(options, name) < 1:
            raise UsageError(f"`--{name} {getattr(options, name)}` is too few", "use 1 or more")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"`--limit {options.limit}` leaves no question", "use 1 or more")


def _size(pair: Pair) -> tuple[int, int]:
    if pair.layers is None or pair.width is None:
        raise BenchError(
            f"`{pair.base.name}` is not on this machine, so its layers are not known",
            f"`hf download {pair.base.path}`, or give two folders: `--model BASE,TUNED`",
        )
    return pair.layers, pair.width


def _tasks(options: SteerOptions) -> tuple[Task, tuple[str, ...]]:
    found = find_tasks(options.tasks)
    embedding = [task for task in found if task.embedding is not None]
    if len(embedding) != 1:
        raise UsageError(
            f"`--tasks {options.tasks}` has {len(embedding)} tasks that take activations, and a "
            "sweep is measured by one",
            "add `aqi` or one of its variants",
        )
    aqi = own_embedding(embedding[0], options.embedding)
    assert aqi.embedding is not None
    per_cell = replace(aqi.embedding, per_cell=MODES[options.mode][0])
    return replace(aqi, embedding=per_cell), tuple(dict.fromkeys(_others(options.tasks)))


def _others(tasks: str) -> Iterator[str]:
    """Names by which the tasks that take no activations are found again."""
    for name in (part.strip() for part in tasks.split(",")):
        plain = [task.id for task in (find_tasks(name) if name else ()) if not task.embedding]
        yield from [name] if plain and name.endswith(".py") else plain
