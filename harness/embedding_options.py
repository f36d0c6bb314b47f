"""Other prompts, layers, pooling or reduction than a task of kind `embed` has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

from harness.engines.steer_settings import parse_layers
from harness.errors import UsageError, did_you_mean
from harness.task import Embedding, Task
from harness.types import Dataset

OPTIONS = ("prompts", "layers", "pooling", "reduction")


class EmbeddingOptions(Protocol):
    @property
    def prompts(self) -> str | None: ...
    @property
    def layers(self) -> str | None: ...
    @property
    def pooling(self) -> str | None: ...
    @property
    def reduction(self) -> str | None: ...


def own_embedding(task: Task, options: EmbeddingOptions) -> Task:
    """The task with what the command line asks for. Raises UsageError for unknown values."""
    own = task.embedding
    assert own is not None
    changes: dict[str, Any] = {}
    if options.layers is not None:
        changes["layers"] = parse_layers(options.layers)
    for name in ("pooling", "reduction"):
        value = getattr(options, name)
        if value is not None:
            changes[name] = _one_of(name, value)
    if options.prompts is not None:
        task = replace(task, dataset=prompts_dataset(options.prompts), offline="")
    return replace(task, embedding=replace(own, **changes))


def prompts_dataset(text: str) -> Dataset:
    """A file, a folder or a hub id; of the latter two also `ID:split` and `ID:config:split`."""
    path, *parts = [text] if Path(text).expanduser().exists() else text.split(":")
    if len(parts) > 2 or not path or not all(parts):
        raise UsageError(
            f"`--prompts {text}` is not a file, ID, ID:split or ID:config:split",
            "for example `--prompts prompts.jsonl`",
        )
    config = parts[0] if len(parts) == 2 else "default"
    return Dataset(path=path, config=config, split=parts[-1] if parts else "train")


def _one_of(name: str, value: str) -> str:
    known = get_args(get_type_hints(Embedding)[name])
    if value not in known:
        hint = did_you_mean(value, known, f"one of {', '.join(known)}")
        raise UsageError(f"unknown {name} `{value}`", hint)
    return value


def check_embedding_options(tasks: Sequence[Task], options: EmbeddingOptions) -> None:
    """Raises UsageError for an option that no task can honour."""
    given = [name for name in OPTIONS if getattr(options, name) is not None]
    if given and not any(task.embedding for task in tasks):
        raise UsageError(
            f"`--{given[0]}` has no meaning for `{', '.join(task.id for task in tasks)}`",
            "leave it out, or add a task that takes activations, such as `aqi`",
        )
