"""Recipes: YAML that a person writes, checked key by key, resolved to what a trainer reads.

A recipe is a name under trainers/recipes/ or the path of a file; it may extend another one, whose
values hold where it has none. Unknown keys are refused with
their path and the nearest known one. Shapes are made from the frozen dataclasses that the rest of
the program works with, a method's own parameters included, so that no field is written twice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from harness import registry
from harness.errors import UsageError, did_you_mean
from harness.search import Search
from harness.shipped import shipped
from harness.trainer import Trainer
from harness.types import JSON, Lora, ModelSpec, Optimizer, Recipe

FOLDER = "trainers/recipes"
SUFFIX = ".yaml"

Take = Annotated[float, Field(gt=0)]

_FORBID = ConfigDict(extra="forbid", frozen=True)
_GUIDE = "docs/trainers.md shows a recipe"
# Fields of `Recipe` that are looked up rather than written.
_LOOKED_UP = {"model_path", "model_revision", "adapter", "trust_remote_code", "template"}


class Own(BaseModel):
    """A template of one's own: text with `{prompt}`, and text that ends with `{completion}`."""

    model_config = _FORBID

    prompt: str
    completion: str = "{completion}"


class Source(BaseModel):
    """One dataset. take: a share up to 1.0, or a whole number of rows; all where it is left out.
    where: column → value that a row must have. columns: as in `Data`, over those there."""

    model_config = _FORBID

    path: str
    config: str = "default"
    split: str = "train"
    revision: str | None = None
    take: int | float | None = None
    where: dict[str, Any] = {}
    columns: dict[str, str] = {}


class Data(BaseModel):
    """What is learnt from. mixture: dataset → share or rows, for sources without more to say.
    columns: our name → theirs (prompt, completion, messages, chosen, rejected, system).
    template: `chat` where it is left out, for problems the prompt of the task that rewards. system:
    a message before all others. overlap: what to do where the data holds questions of the recipe's
    `tasks`; `skip` does not look. empty: what to do with an empty completion. shuffle_answers: give
    each prompt the completion of another one, as a control that must not help."""

    model_config = _FORBID

    sources: tuple[Source, ...] = ()
    mixture: dict[str, int | float] = {}
    columns: dict[str, str] = {}
    template: Literal["chat", "alpaca", "r1_zero", "question_only"] | Own | None = None
    system: str | None = None
    seed: int = 42
    empty: Literal["error", "drop"] = "error"
    overlap: Literal["refuse", "allow", "skip"] = "refuse"
    shuffle_answers: bool = False

    def all_sources(self) -> tuple[Source, ...]:
        mixed = (Source(path=path, take=take) for path, take in self.mixture.items())
        return (*self.sources, *mixed)


class Shape(BaseModel):
    """What every recipe may have beside the fields of `Recipe`. tasks: what the model will be
    judged on; outside: tasks that it was not trained for, for what was forgotten. gates: criteria
    over them that must hold (docs/pipeline.md). evaluate_at: steps after which the checkpoint is
    evaluated while the training runs, evaluate_steps: after every so many. allow_fp16: train
    all weights in fp16 all the same. search: what `bench tune` varies. main_process_ip, _port and
    machine_rank: where several machines meet, unless the environment says it (MASTER_ADDR,
    MASTER_PORT, NODE_RANK)."""

    model_config = _FORBID

    description: str = ""
    source: str = ""
    data: Data | None = None
    tasks: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    evaluate_at: tuple[int, ...] = ()
    evaluate_steps: int = 0
    allow_fp16: bool = False
    search: Search | None = None
    main_process_ip: str | None = None
    main_process_port: int | None = None
    machine_rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A recipe as it was written and checked; `values` is the mapping after `extends` and
    `--set`."""

    name: str
    path: Path
    values: JSON
    shape: Any
    trainer: Trainer

    def resolved(self, model: ModelSpec) -> Recipe:
        """What a trainer reads, for a model that was looked up."""
        own = {f.name for f in dataclasses.fields(Recipe)} - _LOOKED_UP - {"optimizer", "lora"}
        given = {name: getattr(self.shape, name) for name in own}
        template = self.shape.data.template if self.shape.data else None
        return Recipe(
            **{**given, "model": model.name, "params": self.shape.params.model_dump()},
            model_path=model.path,
            model_revision=model.revision,
            adapter=model.adapter,
            trust_remote_code=model.trust_remote_code,
            template="own" if isinstance(template, Own) else template or self._usual_template(),
            optimizer=_value(Optimizer, self.shape.optimizer),
            lora=_value(Lora, self.shape.lora) if self.shape.lora else None,
        )

    def _usual_template(self) -> str:
        if self.shape.data is None:
            return ""
        return "task" if self.trainer.data == "problems" else "chat"


def read(name: str, settings: Mapping[str, str]) -> Asked:
    """The recipe of that name or path, with `--set` values laid over it.

    Raises UsageError for a recipe that is not there, is no YAML, or has a key or value that it
    cannot have.
    """
    path, values = written(name, settings)
    if values.pop("rungs", None):
        raise UsageError(
            f"`{path.stem}` is a ladder: its rungs are several trainings",
            f"`bench train-then-eval {name}` climbs it; "
            "`--set rungs=` takes the recipe without them",
        )
    method = values.get("method")
    if not isinstance(method, str):
        raise UsageError(f"`{path}` names no method", "`method: sft`; see `bench trainers list`")
    trainer = registry.trainer(method)
    shape = validated(values, shape_of(trainer), str(path))
    _check_params(trainer, shape.params.model_dump())
    return Asked(name=path.stem, path=path, values=values, shape=shape, trainer=trainer)


def written(name: str, settings: Mapping[str, str]) -> tuple[Path, JSON]:
    """The file of a recipe and its values after `extends` and `--set`, which nobody has checked."""
    path = find(name)
    return path, _with_settings(_extended(path), settings)


def setting(value: Any) -> str:
    """A value as `--set` has it.

    >>> setting(1e-05), setting([1, 2]), setting(None)
    ('1.0e-05', '[1, 2]', 'null')
    """
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return text.removesuffix("...\n").rstrip("\n")


def names() -> list[str]:
    """The recipes that ship with tunebench, without ladders."""
    return [name for name in _files() if name not in ladders()]


def ladders() -> list[str]:
    """The ladders among them: recipes with rungs."""
    texts = {name: find(name).read_text(encoding="utf-8") for name in _files()}
    return [name for name, text in texts.items() if "\nrungs:" in text]


def _files() -> list[str]:
    return sorted(path.stem for path in shipped(FOLDER).glob(f"*{SUFFIX}"))


def find(name: str) -> Path:
    own = Path(name).expanduser()
    if own.is_file():
        return own
    known = shipped(FOLDER) / f"{name.removesuffix(SUFFIX)}{SUFFIX}"
    if known.is_file():
        return known
    hint = did_you_mean(name, _files(), "`bench trainers list` names the recipes")
    raise UsageError(f"there is no recipe `{name}`", hint)


def _extended(path: Path, seen: tuple[Path, ...] = ()) -> JSON:
    """The recipe laid over the one that it extends, mapping by mapping."""
    values = _parsed(path)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    beside = path.parent / f"{parent}{SUFFIX}"
    found = beside if beside.is_file() else find(str(parent))
    if found in (*seen, path):
        raise UsageError(f"`{path}` extends itself", "take out `extends`")
    return _over(_extended(found, (*seen, path)), values)


def _over(below: JSON, above: JSON) -> JSON:
    both = {key for key in below if isinstance(below[key], dict)} & {
        key for key in above if isinstance(above[key], dict)
    }
    return {**below, **above, **{key: _over(below[key], above[key]) for key in both}}


def _parsed(path: Path) -> JSON:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise UsageError(
            f"`{path}` is no YAML: {said}", "docs/trainers.md shows a recipe"
        ) from None
    if not isinstance(values, dict):
        raise UsageError(f"`{path}` holds no keys", "docs/trainers.md shows a recipe")
    return values


def _with_settings(values: JSON, settings: Mapping[str, str]) -> JSON:
    changed: JSON = dict(values)
    for key, text in settings.items():
        _set(changed, key.split("."), yaml.safe_load(text) if text else None)
    return changed


def _set(held: Any, path: Sequence[str], value: Any) -> None:
    """Put a value at a path of keys and list places; the original is not touched on the way."""
    key: Any = int(path[0]) if isinstance(held, list) and path[0].isdecimal() else path[0]
    if isinstance(held, list) and not (isinstance(key, int) and key < len(held)):
        raise UsageError(
            f"`--set {'.'.join(path)}`: there is no entry `{path[0]}`",
            f"entries are counted from 0 to {len(held) - 1}",
        )
    if len(path) == 1:
        held[key] = value
        return
    inner = held[key] if isinstance(held, list) else held.get(key)
    held[key] = inner.copy() if isinstance(inner, dict | list) else {}
    _set(held[key], path[1:], value)


@functools.cache
def shape_of(trainer: Trainer) -> type[Shape]:
    """The keys that a recipe of this method may have."""
    lora: Any = mirrored(Lora) | None
    params: Any = mirrored(trainer.params)
    needed = any(field.is_required() for field in params.model_fields.values())
    fields: dict[str, Any] = _fields(Recipe, _LOOKED_UP | {"optimizer", "lora", "params"})
    return create_model(
        f"{trainer.name} recipe",
        __base__=Shape,
        **fields,
        optimizer=_optimizer(trainer),
        lora=(lora, None),
        params=(params, ... if needed else params()),
    )


def _optimizer(trainer: Trainer) -> Any:
    """A program of its own has an optimiser of its own."""
    checked = mirrored(Optimizer)
    return (checked, checked(learning_rate=0.0) if trainer.name == "command" else ...)


def mirrored(value: type[Any]) -> type[BaseModel]:
    """A checking model with the fields, types and defaults of a dataclass."""
    return create_model(value.__name__, __config__=_FORBID, **_fields(value, set()))


def _fields(value: type[Any], left_out: set[str]) -> dict[str, Any]:
    hints = get_type_hints(value)
    return {
        field.name: (hints[field.name], _default(field))
        for field in dataclasses.fields(value)
        if field.name not in left_out
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return ... if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(kind: type[Any], checked: BaseModel) -> Any:
    return kind(**checked.model_dump())


def _check_params(trainer: Trainer, params: JSON) -> None:
    """Ranges are the method's own to check, when the value is made."""
    trainer.params(**params)


def validated(values: JSON, shape: type[BaseModel], source: str) -> Any:
    """Values as a checking model. Raises UsageError for the first key or value that is wrong."""
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        raise usage_error(error, shape, source) from None


def usage_error(error: ValidationError, shape: type[BaseModel], source: str) -> UsageError:
    """What pydantic found, as a sentence with the path of the field and what to do."""
    # An unknown key first: it is often the misspelling of the one that is missing.
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    place = [str(part) for part in first["loc"] if str(part).replace("_", "").isalnum()]
    place = [part for part in place if part != "Own"]
    path = ".".join(place)
    if first["type"] == "extra_forbidden":
        return UsageError(f"unknown key `{path}` in {source}", _where_it_belongs(place, shape))
    if first["type"] == "missing":
        return UsageError(f"`{path}` is missing in {source}", f"add `{place[-1]}: …`")
    said = first["msg"][0].lower() + first["msg"][1:]
    hint = "correct the value"
    if first["type"] == "tuple_type":
        said, hint = "that is no list", f"`{place[-1]}: [{first['input']}]`"
    return UsageError(f"`{path}` in {source} is {first['input']!r}: {said}", hint)


def field_type(shape: type[BaseModel], path: str, source: str) -> Any:
    """The type of the field at a dotted path, Any inside of mappings and lists.

    Raises UsageError for a field that a recipe of this method cannot have.
    """
    place = path.split(".")
    found: Any = shape
    for depth, name in enumerate(place):
        inside = list(_models_in(found))
        if not inside:
            return Any
        holder = next((one for one in inside if name in one.model_fields), None)
        if holder is None:
            unknown = ".".join(place[: depth + 1])
            raise UsageError(
                f"unknown field `{unknown}` in {source}",
                _where_it_belongs(place[: depth + 1], shape),
            )
        found = holder.model_fields[name].annotation
    return found


def _where_it_belongs(place: Sequence[str], shape: type[BaseModel]) -> str:
    """The same key elsewhere, else the nearest one at its place."""
    known = dict(_keys(shape))
    key = place[-1]
    elsewhere = [path for path, name in known.items() if name == key]
    if elsewhere:
        return f"it belongs at `{elsewhere[0]}`"
    parents = ".".join(part for part in place[:-1] if not part.isdecimal())
    beside = [name for path, name in known.items() if path.rpartition(".")[0] == parents]
    return did_you_mean(key, beside or known.values(), f"there are: {', '.join(beside)}")


def _keys(shape: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that a recipe may have, as (path, name)."""
    for name, field in shape.model_fields.items():
        yield f"{prefix}{name}", name
        for inner in _models_in(field.annotation):
            yield from _keys(inner, f"{prefix}{name}.")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
