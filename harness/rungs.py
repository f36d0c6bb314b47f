"""A ladder found sound before its first stage: what each rung measures, and what it will cost."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import criteria, estimate, gates, models, recipes
from harness.criteria import OF_INDICES, OF_SWEEPS, OF_TASKS
from harness.errors import UsageError
from harness.ladder_recipe import Cost, Ladder, Step, Sweep, Training
from harness.model_registry import NAME
from harness.models import entries
from harness.registry import tasks as find_tasks
from harness.task import Task
from harness.types import ModelSpec

if TYPE_CHECKING:
    from harness.steering.planning import SteerOptions

INDICES = ("silhouette", "probe_auc")
"""Further measures of a sweep that may be compared along it; `aqi` is the separation, with its
tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a rung takes. hours, usd: None where it cannot be told. source: where that is from."""

    hours: float | None
    usd: float | None
    source: str

    @property
    def text(self) -> str:
        parts = [] if self.hours is None else [_duration(self.hours)]
        parts += [] if self.usd is None else [f"${self.usd:,.2f}"]
        return f"{' and '.join(parts) or 'an unknown price'} ({self.source})"


def _duration(hours: float) -> str:
    if hours == 0:
        return "no time of training"
    if hours < 1:
        return f"{max(1, round(hours * 60))} minute(s)"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def check(steps: Sequence[Step], outside: Sequence[str], home: Path) -> None:
    """Raises UsageError for the first thing that could not be done."""
    there: set[str] = set()
    for step in steps:
        for one in step.trainings:
            _check_training(one, there, home)
            there.add(one.made)
        if (pair := step.rung.compare) is not None:
            for name in (pair.base, pair.tuned):
                _check_model(name, there, home, step)
        if (sweep := step.rung.steer) is not None:
            _check_sweep(sweep, there, home, step)
        known = dict(_words(step, outside))
        criteria.check(step.success, known, f"the rung `{step.name}`")


def _check_training(one: Training, there: set[str], home: Path) -> None:
    asked = recipes.read(one.recipe, one.set)
    _named_model(asked.shape.model, there, home, f"the recipe `{one.recipe}`")
    if not NAME.fullmatch(one.made):
        raise UsageError(
            f"`register: {one.made}` cannot be the name of a model",
            "use letters, digits, `.`, `_` and `-`, starting with a letter or digit",
        )
    book = entries(home)
    taken = one.made in book and (not book[one.made].local or book[one.made].entry.run is None)
    if taken or one.made in there:
        raise UsageError(f"`{one.made}` is the name of another model", "choose another one")
    for name in (*asked.shape.tasks, *asked.shape.outside):
        find_tasks(name)


def _check_model(name: str, there: set[str], home: Path, step: Step) -> None:
    _named_model(name, there, home, f"the rung `{step.name}`")


def _named_model(name: str, there: set[str], home: Path, where: str) -> None:
    """Registered, a folder, on the hub, or made by a rung below."""
    if name in there:
        return
    try:
        models.model(name, home)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None


def _check_sweep(sweep: Sweep, there: set[str], home: Path, step: Step) -> None:
    from harness.steering.pair import find_pair
    from harness.steering.planning import check_options
    from harness.steering.points import parse_lambdas

    for package in ("numpy", "sklearn"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"the rung `{step.name}` steers, which needs `{package}`",
                "`pip install 'tunebench[hf,steer]'`",
            )
    parse_lambdas(sweep.lambdas)
    options = sweep_options(sweep, step.name)
    check_options(options)
    names = [name.strip() for name in sweep.model.split(",")]
    for name in names:
        _check_model(name, there, home, step)
    if not set(names) & there:
        find_pair(sweep.model, home)
    if sum(one.embedding is not None for one in find_tasks(options.tasks)) != 1:
        raise UsageError(
            f"`tasks: {options.tasks}` of the rung `{step.name}` does not name one task that takes "
            "activations",
            "add `aqi` or one of its variants",
        )


def sweep_options(sweep: Sweep, name: str) -> SteerOptions:
    """The options of `bench steer` that a rung gives."""
    from harness.steering.planning import SteerOptions

    given = sweep.model_extra or {}
    shape = recipes.mirrored(SteerOptions)
    checked = recipes.validated(given, shape, f"`steer` of the rung `{name}`")
    return SteerOptions(**{key: getattr(checked, key) for key in given})


def _words(step: Step, outside: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """What a criterion of this rung may say: measure → words."""
    if step.trainings:
        last = recipes.read(step.trainings[-1].recipe, step.trainings[-1].set).shape
        domain = _tasks(last.tasks)
        named = {one.id for one in domain}
        far = [one for one in _tasks((*last.outside, *outside)) if one.id not in named]
        yield from gates.words(domain, far).items()
    if step.rung.compare is not None:
        for one in _tasks(step.rung.compare.tasks):
            yield one.id, OF_INDICES if one.embedding else OF_TASKS
    if step.rung.steer is not None:
        yield "aqi", OF_SWEEPS
        yield from ((name, (*OF_INDICES, "monotone")) for name in INDICES)


def _tasks(names: Sequence[str]) -> list[Task]:
    return list(find_tasks(",".join(names))) if names else []


def prices(ladder: Ladder, home: Path, data_root: Path | None) -> list[Price]:
    """What each rung takes. Raises UsageError for one that trains and does not say its cost."""
    of_models: dict[str, ModelSpec] = {}
    found = []
    for step in ladder.steps:
        for one in step.trainings:
            asked = recipes.read(one.recipe, one.set).shape.model
            # A model that is made on the way has the size of what it was made from.
            of_models[one.made] = of_models.get(asked) or models.model(asked, home)
        found.append(_price(step, of_models, home, data_root))
    return found


def _price(
    step: Step, of_models: Mapping[str, ModelSpec], home: Path, data_root: Path | None
) -> Price:
    cost = step.rung.cost
    if not step.trainings and cost is None:
        return Price(hours=0.0, usd=0.0, source="nothing is trained")
    if cost is None or (cost.gpu is None and cost.hours is None and cost.usd is None):
        raise UsageError(
            f"the rung `{step.name}` trains and says nothing of its cost",
            "add `cost: {gpu: A40-48GB}`, or `cost: {hours: 14, usd: 15}`",
        )
    if cost.gpu is None or cost.hours is not None:
        return Price(hours=cost.hours, usd=cost.usd, source="as the recipe says")
    return _estimated(step, cost, of_models, home, data_root)


def _estimated(
    step: Step,
    cost: Cost,
    of_models: Mapping[str, ModelSpec],
    home: Path,
    data_root: Path | None,
) -> Price:
    cards = estimate.gpus(str(cost.gpu))[0]
    speed = estimate.calibrated(home, cards)
    found = []
    for one in step.trainings:
        asked, spec = recipes.read(one.recipe, one.set), of_models[one.made]
        work = estimate.workload(asked, one.examples, one.tokens, data_root)
        shape = estimate.shape(spec, home)
        found.append(estimate.estimate(asked.resolved(spec), shape, work, cards, speed))
    name = f"{cards.name}×{cards.count}"
    for estimated in found:
        if not estimated.fits:
            cures = "; or ".join(estimated.remedies) or "nothing in the table"
            raise UsageError(
                f"the rung `{step.name}` does not fit on {name}", f"what would: {cures}"
            )
    hours = [one.hours for one in found if one.hours is not None]
    whole = sum(hours) if len(hours) == len(found) else None
    usd = whole * cards.usd_per_hour * cards.count if cost.usd is None and whole else cost.usd
    return Price(hours=whole, usd=usd, source=f"estimated on {name}")
