"""What a recipe will take on given GPUs: memory, hours and money, and what to change where it does
not fit."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from harness import footprint, models, runs
from harness.errors import DataError, UsageError, did_you_mean
from harness.footprint import Memory, Shape
from harness.recipes import Asked
from harness.training_data import resolve
from harness.training_plan import steps_of
from harness.types import JSON, Lora, ModelSpec, Recipe, Run, recipe_from_json

USUAL_EFFICIENCY = 0.3
"""Share of a GPU's peak that training reaches, fitted on the runs in benchmarks.estimate_error."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*[Bb](?![a-z])")
_GPU = re.compile(r"(?P<name>[^×x]+?)(?:[×x](?P<count>\d+))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """count cards of one kind. tflops: dense peak in 16 bit."""

    name: str
    count: int
    memory_gb: float
    tflops: float
    usd_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """examples: rows of the training data. tokens: of a mean sequence. source: from where."""

    examples: int
    tokens: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Share of the peak that is reached, and where that is known from."""

    efficiency: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """hours, usd: None for methods that sample (rollouts), whose time depends on the engine.
    remedies: what would make it fit, each in words that can be typed into the recipe."""

    gpus: Gpus
    launcher: str
    memory: Memory
    fits: bool
    hours: float | None
    usd: float | None
    tokens: float
    disk_gb: float
    speed: Speed
    shape: Shape
    remedies: tuple[str, ...]


def table() -> dict[str, JSON]:
    """The GPUs that are known, by name."""
    text = (resources.files("harness") / "gpus.json").read_text(encoding="utf-8")
    known: dict[str, JSON] = json.loads(text)
    return known


def gpus(wanted: str) -> list[Gpus]:
    """`A40-48GB,H100-80GB×8` as values; `x8` is understood too, and a name that is clear without
    its memory. Raises UsageError for what is not in the table."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise UsageError("no GPU was named", "for example `--gpu A40-48GB`")
    return [_gpus(name) for name in names]


def _gpus(wanted: str) -> Gpus:
    known = table()
    match = _GPU.match(wanted)
    name, count = (match["name"], int(match["count"] or 1)) if match else (wanted, 1)
    folded = {known_name.casefold(): known_name for known_name in known}
    short = [full for full in known if full.casefold().startswith(f"{name.casefold()}-")]
    found = folded.get(name.casefold()) or (short[0] if len(short) == 1 else None)
    if found is None or count < 1:
        beside = [full for full in known if full.split("-")[0] in name.upper().split("-")]
        near = "" if short else did_you_mean(name, beside)
        hint = near or f"known are: {', '.join(beside or known)}"
        raise UsageError(f"unknown GPU `{wanted}`", hint)
    return Gpus(name=found, count=count, **known[found])


def estimate(recipe: Recipe, shape: Shape, work: Workload, cards: Gpus, speed: Speed) -> Estimate:
    """What the recipe takes on these cards."""
    spread = on(recipe, cards.count)
    needed = footprint.memory(spread, shape)
    fits = needed.total <= cards.memory_gb
    tokens = footprint.training_tokens(spread, work.examples, work.tokens)
    hours = _hours(spread, shape, tokens, cards, speed)
    return Estimate(
        gpus=cards,
        launcher=spread.launcher,
        memory=needed,
        fits=fits,
        hours=hours,
        usd=None if hours is None else hours * cards.usd_per_hour * cards.count,
        tokens=tokens,
        disk_gb=footprint.checkpoint_gb(spread, shape, steps_of(spread, work.examples)),
        speed=speed,
        shape=shape,
        remedies=() if fits else tuple(_remedies(spread, shape, cards)),
    )


def on(recipe: Recipe, count: int) -> Recipe:
    """The recipe on so many GPUs: one process each, started as it says where that needs several."""
    launcher = recipe.launcher
    if count > 1 and launcher == "single":
        launcher = "ddp"
    if count == 1 and launcher == "ddp":
        launcher = "single"
    return replace(recipe, num_processes=count, launcher=launcher)


def _hours(recipe: Recipe, shape: Shape, tokens: float, cards: Gpus, speed: Speed) -> float | None:
    if recipe.method in footprint.ROLLOUTS:
        return None
    operations = tokens * footprint.operations_per_token(recipe, shape)
    return operations / (speed.efficiency * cards.tflops * 1e12 * cards.count) / 3600


def _remedies(recipe: Recipe, shape: Shape, cards: Gpus) -> Iterator[str]:
    """The smallest changes first; each alone, then together, then other cards."""
    lora = replace(recipe, lora=recipe.lora or Lora(), gradient_checkpointing=True)
    tries = [
        ("gradient_checkpointing: true", replace(recipe, gradient_checkpointing=True)),
        (
            "gradient_checkpointing: true and micro_batch_size: 1",
            replace(recipe, gradient_checkpointing=True, micro_batch_size=1),
        ),
        ("lora (rank 16) with gradient_checkpointing: true", lora),
        (
            "lora with quantization: 4bit, gradient_checkpointing: true, micro_batch_size: 1",
            replace(
                lora, micro_batch_size=1, lora=replace(lora.lora or Lora(), quantization="4bit")
            ),
        ),
    ]
    for text, changed in tries:
        if changed != recipe and footprint.memory(changed, shape).total <= cards.memory_gb:
            yield text
            break
    sparing = replace(recipe, gradient_checkpointing=True, launcher="zero3", micro_batch_size=1)
    yield from _more_cards(sparing, shape, cards)


def _more_cards(recipe: Recipe, shape: Shape, cards: Gpus) -> Iterator[str]:
    for name, card in [(cards.name, cards.memory_gb), ("H100-80GB", 80.0), ("H200-141GB", 141.0)]:
        for count in (1, 2, 4, 8, 16):
            if (name, count) == (cards.name, cards.count):
                continue
            spread = replace(recipe, num_processes=count)
            if footprint.memory(spread, shape).total <= card:
                how = "" if count == 1 else ", launcher: zero3"
                yield f"{name}×{count}{how}, gradient_checkpointing: true, micro_batch_size: 1"
                break


def shape(spec: ModelSpec, home: Path) -> Shape:
    """The model's size: from its config.json where it is on this machine, else from its name.

    Raises UsageError where neither tells.
    """
    local = models.resolve_local(spec)
    if local is not None and (known := _configured(Path(local.path) / "config.json")):
        return known
    if published := _PUBLISHED.get(spec.path):
        return replace(published, source=f"published size of {spec.path}")
    named = _SIZE.search(spec.path.rsplit("/", 1)[-1])
    if named is None:
        raise UsageError(
            f"the size of `{spec.name}` is not known: no config.json on this machine tells it",
            f"download it, for example with `hf download {spec.path}`",
        )
    return _typical(float(named[1]), f"the name {spec.path}: a typical model of {named[1]}B")


def _configured(path: Path) -> Shape | None:
    """None for an architecture that names its parts otherwise."""
    try:
        return footprint.shape_of(json.loads(path.read_text(encoding="utf-8")), f"{path}")
    except KeyError:
        return None


_LLAMA3 = Shape(layers=32, hidden=4096, intermediate=14336, vocabulary=128256, kv_share=0.25)
_PUBLISHED = {
    "meta-llama/Llama-3.1-8B": _LLAMA3,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA3,
    "meta-llama/Llama-2-7b-hf": Shape(layers=32, hidden=4096, intermediate=11008, vocabulary=32000),
    "Qwen/Qwen2.5-Math-1.5B": Shape(
        layers=28, hidden=1536, intermediate=8960, vocabulary=151936, kv_share=1 / 6, tied=True
    ),
    "Qwen/Qwen2.5-3B": Shape(
        layers=36, hidden=2048, intermediate=11008, vocabulary=151936, kv_share=1 / 8, tied=True
    ),
    "Qwen/Qwen2.5-7B": Shape(
        layers=28, hidden=3584, intermediate=18944, vocabulary=152064, kv_share=1 / 7
    ),
}


def _typical(billions: float, source: str) -> Shape:
    """Llama 3's proportions scaled so that the weights come out right."""
    low, high = 64, 65536
    while high - low > 64:
        middle = (low + high) // 2 // 64 * 64
        if _scaled(middle, source).parameters < billions * 1e9:
            low = middle
        else:
            high = middle
    return _scaled(high, source)


def _scaled(hidden: int, source: str) -> Shape:
    return replace(
        _LLAMA3,
        hidden=hidden,
        intermediate=round(hidden * 3.5),
        layers=max(2, round(32 * (hidden / 4096) ** 0.8)),
        source=source,
    )


def workload(
    asked: Asked, examples: int | None, tokens: float | None, data_root: Path | None
) -> Workload:
    """How much is learnt: as given, else counted in the recipe's data, where a token is taken to be
    four characters. Raises DataError where the data is not to be had."""
    if examples is not None and tokens is not None:
        return Workload(examples=examples, tokens=tokens, source="examples and tokens as given")
    try:
        found = resolve(asked, data_root).examples
    except DataError as error:
        hint = "give `--examples N --tokens T` (mean tokens)"
        raise DataError(error.message, f"{error.hint}; or {hint}") from None
    mean = statistics.fmean(len(one.question) + len(one.answers) for one in found) / 4
    return Workload(
        examples=examples or len(found),
        tokens=tokens or mean,
        source=f"{examples or len(found):,} examples of about {tokens or mean:.0f} tokens",
    )


def calibrated(home: Path, cards: Gpus) -> Speed:
    """The efficiency of training runs in the history: on the same kind of GPU where there are some,
    else on any, else that of the reference runs."""
    seen = [(name, share) for run in runs.read_all(home) for name, share in _reached(home, run)]
    same = [share for name, share in seen if name == cards.name]
    for shares, what in ((same, f"on {cards.name}"), ([s for _, s in seen], "on other GPUs")):
        if shares:
            source = f"{len(shares)} training run(s) {what} in the history"
            return Speed(efficiency=statistics.median(shares), source=source)
    source = "the reference runs, since the history has no training on a known GPU"
    return Speed(efficiency=USUAL_EFFICIENCY, source=source)


def _reached(home: Path, run: Run) -> Iterator[tuple[str, float]]:
    """GPU and share of its peak of a finished training run; nothing for one on a CPU."""
    if run.kind != "train" or run.status != "done" or not run.recipe:
        return
    name = next((name for name in table() if _is_called(run.device, name)), None)
    speeds = _speeds(runs.folder_of(home, run.run_id) / "steps.jsonl")
    if name is None or not speeds:
        return
    try:
        recipe = recipe_from_json(run.recipe["resolved"])
        config = json.loads((Path(recipe.model_path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, TypeError, KeyError):
        # A recipe of another version, or a model that is gone: nothing to be learnt from it.
        return
    per_token = footprint.operations_per_token(recipe, footprint.shape_of(config, ""))
    peak = table()[name]["tflops"] * 1e12 * max(1, run.gpus)
    yield name, statistics.median(speeds) * per_token / peak


def _is_called(device: str, name: str) -> bool:
    """Whether a device ("NVIDIA A100-SXM4-80GB") is that entry of the table."""
    kind, memory = name.split("-")
    return re.search(rf"\b{kind}\b", device) is not None and (
        memory in device or kind not in ("A100",)
    )


def _speeds(path: Path) -> list[float]:
    """Tokens per second at each logged step but the first, which warms up."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    found = [line["value"] for line in lines if line["metric"] == "tokens_per_second"]
    return found[1:] or found
