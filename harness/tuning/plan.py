"""What a search is: written down once, read by every worker.

tuning.json     the `Plan`, in the folder of the tuning run
base.yaml       the recipe that trials lay their values over, `extends` and `--set` already in it
train.jsonl     what trials learn; held_out.jsonl: what their loss is measured on
overlap.jsonl   as for a training
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness import evaluate
from harness.search import Search
from harness.tuning.space import Dimension
from harness.types import JSON, ModelSpec, to_json

TUNING = "tuning.json"
BASE = "base.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """settings: recipe fields by dotted path. trials, study: instead of the recipe's number and of
    its name. register: name of the best checkpoint in the registry. evaluation: how to ask."""

    settings: Mapping[str, str] = field(default_factory=dict)
    trials: int | None = None
    workers: int = 1
    study: str | None = None
    register: str | None = None
    evaluation: evaluate.Options = evaluate.Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tried. recipe: its name. asked: what makes this search another than one of the same
    name, part by part; key: hash of that. found: what `trainers.checking` found out. drawn: the
    sources of the data. examples: that are learnt. new_data: whether trials differ in their data.
    device, processes: of the recipe, which no search varies.
    """

    recipe: str
    study: str
    search: Search
    space: tuple[Dimension, ...]
    base: ModelSpec
    asked: JSON
    key: str
    found: JSON
    flags: tuple[str, ...]
    examples: int
    drawn: tuple[JSON, ...]
    new_data: bool
    device: str
    processes: int


def write(plan: Plan, folder: Path) -> None:
    fields = {one.name: getattr(plan, one.name) for one in dataclasses.fields(plan)}
    plain: JSON = {
        **fields,
        "search": plan.search.model_dump(mode="json"),
        "space": [dataclasses.asdict(one) for one in plan.space],
        "base": to_json(plan.base),
    }
    (folder / TUNING).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Plan:
    """The plan of a tuning run. Raises FileNotFoundError."""
    found = json.loads((folder / TUNING).read_text(encoding="utf-8"))
    space = [Dimension(**{**one, "choices": tuple(one["choices"])}) for one in found.pop("space")]
    return Plan(
        **{
            **found,
            "search": Search.model_validate(found["search"]),
            "space": tuple(space),
            "base": ModelSpec(**found["base"]),
            "flags": tuple(found["flags"]),
            "drawn": tuple(found["drawn"]),
        }
    )


def differences(old: JSON, new: JSON, prefix: str = "") -> list[str]:
    """Dotted names of what differs between two `Plan.asked`."""
    names = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names
