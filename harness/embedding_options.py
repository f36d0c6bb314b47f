"""Other prompts, layers, pooling or reduction than a task of kind `embed` has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

from harness.checkpoints import read_config
from harness.datasets import PACKAGED
from harness.engines.steer_settings import parse_layers
from harness.errors import UsageError, did_you_mean
from harness.task import Embedding, Task
from harness.types import Dataset, ModelSpec

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


def existing_layers(asked: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    """From 0, sorted, each once. Raises UsageError for one that `name` does not have."""
    for layer in asked:
        if not -count <= layer < count:
            raise UsageError(
                f"`{name}` has no layer {layer}",
                f"its {count} layers are 0 to {count - 1}, or -{count} to -1",
            )
    return tuple(sorted({layer % count for layer in asked}))


def check_layers(tasks: Sequence[Task], spec: ModelSpec) -> None:
    """Raises UsageError for layers that a model lacks, where its folder says how many it has."""
    config = read_config(Path(spec.path))
    if config is None or config.num_layers is None:
        return
    for task in tasks:
        if task.embedding is not None:
            existing_layers(task.embedding.layers, config.num_layers, spec.name)


def prompts_dataset(text: str) -> Dataset:
    """A file, a folder or a hub id; of the latter two also `ID:split` and `ID:config:split`.
    `tunebench:FILE` ships with the project."""
    own = PACKAGED if text.startswith(PACKAGED) else ""
    path, *parts = [text] if Path(text).expanduser().exists() else text.removeprefix(own).split(":")
    if len(parts) > 2 or not path or not all(parts):
        raise UsageError(
            f"`--prompts {text}` is not a file, ID, ID:split or ID:config:split",
            "for example `--prompts prompts.jsonl`",
        )
    config = parts[0] if len(parts) == 2 else "default"
    return Dataset(path=own + path, config=config, split=parts[-1] if parts else "train")


def _one_of(name: str, value: str) -> str:
    known = get_args(get_type_hints(Embedding)[name])
    if value not in known:
        hint = did_you_mean(value, known, f"one of {', '.join(known)}")
        raise UsageError(f"unknown {name} `{value}`", hint)
    if value == "umap" and find_spec("umap") is None:
        raise UsageError(
            f"`--{name} umap` needs a package that is missing", "`pip install 'tunebench[umap]'`"
        )
    return value


def check_embedding_options(tasks: Sequence[Task], options: EmbeddingOptions) -> None:
    """Raises UsageError for an option that no task can honour."""
    given = [name for name in OPTIONS if getattr(options, name) is not None]
    if given and not any(task.embedding for task in tasks):
        raise UsageError(
            f"`--{given[0]}` has no meaning for `{', '.join(task.id for task in tasks)}`",
            "leave it out, or add a task that takes activations, such as `aqi`",
        )
