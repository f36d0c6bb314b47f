"""The two checkpoints that a steering vector leads from and to, checked without loading them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness import checkpoints
from harness.errors import UsageError
from harness.model_registry import Pair as RegisteredPair
from harness.models import entries, model, models, resolve
from harness.types import JSON, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """base is steered, towards tuned. layers, width: None where the base is not downloaded yet."""

    name: str
    base: ModelSpec
    tuned: ModelSpec
    layers: int | None
    width: int | None


def find_pair(names: str, home: Path) -> Pair:
    """A pair of the registry by name, or two models with a comma between them.

    Raises UsageError for a single model, and for two that differ in depth, width or tokenizer.
    """
    name, base, tuned = _sides(names, home)
    base, tuned = resolve(base), resolve(tuned)
    ours, theirs = (checkpoints.read_config(Path(spec.path)) for spec in (base, tuned))
    if ours is not None and theirs is not None:
        sizes = (
            ("depth", "layers", ours.num_layers, theirs.num_layers),
            ("width", "dimensions", ours.hidden_dim, theirs.hidden_dim),
        )
        for what, unit, one, other in sizes:
            if one != other:
                raise UsageError(
                    f"`{base.name}` and `{tuned.name}` differ in {what}: {one} and {other} {unit}",
                    "a vector leads only between checkpoints of one architecture",
                )
    _check_tokenizers(base, tuned)
    return Pair(
        name=name,
        base=base,
        tuned=tuned,
        layers=ours.num_layers if ours else None,
        width=ours.hidden_dim if ours else None,
    )


def _sides(names: str, home: Path) -> tuple[str, ModelSpec, ModelSpec]:
    if "," in names:
        found = models(names, home)
        if len(found) != 2:
            raise UsageError(
                f"`{names}` names {len(found)} model(s), and a vector leads from one to another",
                "give a pair of the registry, or `--model BASE,TUNED`",
            )
        return f"{found[0].name}→{found[1].name}", found[0], found[1]
    book = entries(home)
    if names in book and isinstance(book[names].entry, RegisteredPair):
        return names, model(f"{names}/base", home), model(f"{names}/instruct", home)
    one = model(names, home)  # an unknown name is told as such
    pairs = [name for name, found in book.items() if isinstance(found.entry, RegisteredPair)]
    raise UsageError(
        f"`{one.name}` is a single model, and steering needs the pair that a vector leads between",
        f"give `--model BASE,TUNED`, or a pair of the registry: {', '.join(pairs)}",
    )


def _check_tokenizers(base: ModelSpec, tuned: ModelSpec) -> None:
    ours, theirs = _vocabulary(base), _vocabulary(tuned)
    if ours is None or theirs is None:
        return
    token = next((t for t in ours if theirs.get(t, ours[t]) != ours[t]), None)
    if token is None and len(ours.keys() ^ theirs.keys()) <= _NEW_TOKENS:
        return
    which = f": `{token}` is {ours[token]} and {theirs[token]}" if token is not None else ""
    raise UsageError(
        f"`{base.name}` and `{tuned.name}` differ in their tokenizer{which}",
        "the two must read a text as the same tokens",
    )


_NEW_TOKENS = 64
"""Added by a chat template and the like; texts without them are read alike."""


def _vocabulary(spec: ModelSpec) -> dict[str, int] | None:
    """Token → id; None where the folder has no tokenizer.json that says so."""
    try:
        stored: JSON = json.loads((Path(spec.path) / "tokenizer.json").read_text("utf-8"))
        vocabulary = stored["model"]["vocab"]
        if isinstance(vocabulary, list):  # a unigram model: pairs of token and score
            vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in stored.get("added_tokens") or ()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**vocabulary, **added}
