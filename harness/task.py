"""A task: one published protocol of one benchmark, as a frozen value; how it renders a prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from harness.errors import UsageError
from harness.types import (
    Completion,
    Dataset,
    Message,
    Prompt,
    Request,
    Sample,
    SamplingParams,
    Score,
)

Row = dict[str, Any]


class Scorer(Protocol):
    """Grades a completion; pure, so that it can also be the reward in training.

    name, version: stored with each score. metric: what the mean of its values is called.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def metric(self) -> str: ...
    def __call__(self, sample: Sample, completion: Completion) -> Score: ...


@runtime_checkable
class Preparing(Protocol):
    """A scorer that starts something: told before there are answers, while the engine starts."""

    def prepare(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShot:
    """Where the solved examples before a question come from.

    n: how many by default. rule: `first` takes the first n rows of the dataset (of the question's
    group, where `by_group`); `random` draws anew for each question from one generator, as lm-eval
    does; `fixed` takes the first n of `examples`, which belong to the protocol.
    """

    n: int
    dataset: Dataset | None = None
    examples: tuple[Sample, ...] = ()
    rule: Literal["first", "random", "fixed"] = "random"
    seed: int = 1234
    by_group: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """How the activations of labelled prompts are taken and compared (kind `embed`).

    layers: -1 is the last; several are averaged. pooling: mean or last token. reduction: none, pca,
    tsne or umap. per_cell: prompts drawn with `seed` from each group and label, or all there are.
    """

    layers: tuple[int, ...] = (-1,)
    pooling: Literal["mean", "last"] = "mean"
    reduction: Literal["none", "pca", "tsne", "umap"] = "pca"
    per_cell: int = 100
    seed: int = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One variant of one benchmark. The default variant is called ''.

    version: raised whenever a rendered prompt, a scorer or a metric changes.
    to_sample: one row of the dataset as a Sample. description: text before the examples, which may
    depend on the sample. offline: file under tasks/samples/ with a few own questions; '' where the
    dataset itself is at hand.
    columns: columns that a row must have. source: where the protocol comes from.
    scorers: the first is the primary one; its grade is the row in `samples`. clustered: whether the
    questions of a group hang together (one text, many questions), so that the standard error must
    count groups rather than questions. judge: the prompt under tasks/judges/ with which another
    model reads the answers; the scorers then grade its replies. has_gold: whether the scorers must
    accept the targets as answers (`bench tasks check`). refused: (sample id, why) of targets that a
    published rule refuses all the same. embedding: for kind `embed`, whose samples have the target
    `safe` or `unsafe`. top_tokens: for kind `choose`, how many of the likeliest first tokens the
    scorers look at. file: the user's own file that it was read from; the registry sets it.
    """

    name: str
    variant: str = ""
    version: int
    title: str
    source: str
    dataset: Dataset
    columns: tuple[str, ...]
    to_sample: Callable[[Row, int], Sample]
    kind: Literal["generate", "choose", "embed"]
    scorers: tuple[Scorer, ...]
    offline: str = ""
    sampling: SamplingParams = SamplingParams()
    fewshot: FewShot | None = None
    description: Callable[[Sample], str] | None = None
    clustered: bool = False
    judge: str = ""
    has_gold: bool = True
    refused: tuple[tuple[str, str], ...] = ()
    embedding: Embedding | None = None
    top_tokens: int | None = None
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    file: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}:{self.variant}" if self.variant else self.name


def draw_shots(
    task: Task, samples: Sequence[Sample], pool: Sequence[Sample], n: int, seed: int | None
) -> Iterator[tuple[Sample, ...]]:
    """The n examples shown before each of `samples`, in order.

    With rule `random`, one generator serves all questions in order (lm-eval 0.4.13
    api/samplers.py), so the draw must run over the whole split even if only some are asked.
    """
    rule = task.fewshot
    if n == 0 or rule is None:
        yield from (() for _ in samples)
        return
    if rule.rule != "random":
        yield from _first_shots(task, samples, pool, n)
        return
    _require(task, n, len(pool))
    generator = random.Random(rule.seed if seed is None else seed)
    own_split = rule.dataset == task.dataset
    for sample in samples:
        # lm-eval draws one more where the question itself may be among the examples.
        drawn = generator.sample(pool, n + 1 if own_split else n)
        yield tuple(shot for shot in drawn if not own_split or shot.id != sample.id)[:n]


def _first_shots(
    task: Task, samples: Sequence[Sample], pool: Sequence[Sample], n: int
) -> Iterator[tuple[Sample, ...]]:
    assert task.fewshot is not None
    groups: dict[str, list[Sample]] = {}
    for shot in pool:
        groups.setdefault(shot.group if task.fewshot.by_group else "", []).append(shot)
    for sample in samples:
        group = groups.get(sample.group if task.fewshot.by_group else "", [])
        _require(task, n, len(group))
        yield tuple(group[:n])


def _require(task: Task, n: int, available: int) -> None:
    if n > available:
        raise UsageError(
            f"`--shots {n}` for `{task.id}`, which has {available} example(s) to show",
            f"use `--shots {available}` or fewer",
        )


def render(task: Task, sample: Sample, shots: Iterable[Sample], *, chat: bool) -> Request:
    """The request for one question: plain text, or chat turns with the examples as turns.

    In chat form the delimiter before a choice is empty, since the turn already separates it
    (lm-eval's rule under --apply_chat_template).
    """
    preamble = task.description(sample) if task.description else ""
    prompt: Prompt
    if chat or not isinstance(sample.input, str):
        prompt = (*_chat_prefix(preamble, shots), *_turns(sample.input))
        delimiter = ""
    else:
        solved = (
            f"{shot.input}{task.target_delimiter}{shot.target}{task.fewshot_delimiter}"
            for shot in shots
        )
        prompt = preamble + "".join(solved) + sample.input
        delimiter = task.target_delimiter
    return Request(
        id=sample.id,
        kind=task.kind,
        prompt=prompt,
        choices=_offered(task, sample, delimiter),
        sampling=task.sampling if task.kind == "generate" else None,
        layers=task.embedding.layers if task.embedding else (),
        pooling=task.embedding.pooling if task.embedding else None,
        top_tokens=task.top_tokens,
    )


def _offered(task: Task, sample: Sample, delimiter: str) -> tuple[str, ...]:
    """The choices to be scored; where the model writes, they only tell the grader the letters."""
    return tuple(delimiter + choice for choice in sample.choices if task.kind == "choose")


def _chat_prefix(preamble: str, shots: Iterable[Sample]) -> tuple[Message, ...]:
    system = (Message(role="system", content=preamble),) if preamble else ()
    turns = (
        turn
        for shot in shots
        for turn in (*_turns(shot.input), Message(role="assistant", content=shot.target))
    )
    return (*system, *turns)


def _turns(prompt: Prompt) -> tuple[Message, ...]:
    return (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
