"""The settings with which an engine steers a model, checked (standard library only)."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

from harness.errors import UsageError

NORMS = ("keep", "free")
_RANGE = re.compile(r"\s*(-?\d+)\s*(?::\s*(-?\d+)\s*)?")


def parse_layers(text: str) -> tuple[int, ...]:
    """Layer numbers as typed: `-1`, `27,28`, or a range with both its ends, `-5:-1`.

    Raises UsageError for anything else.

    >>> parse_layers("-5:-3,-1")
    (-5, -4, -3, -1)
    """
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise UsageError(f"`{text}` names no layers", "for example `-1`, `27,28,29` or `-5:-1`")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise UsageError(f"`{part.strip()}` ends before it begins", f"try `{last}:{first}`")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def checked_steering(parsed: dict[str, Any]) -> dict[str, Any]:
    """The settings with the vector file as an absolute path and its hash beside it.

    Raises UsageError for what cannot be: no such file, a lambda that is no number, and settings
    of steering without a vector.
    """
    given = [name for name in parsed if name.startswith("steer")]
    if not given:
        return parsed
    if "steer_sha256" in given:
        raise UsageError("`steer_sha256` is filled in from the file", "leave it out")
    if not parsed.get("steer"):
        raise UsageError(
            f"`{given[0]}` has no vector to steer with", "add `--set steer=VECTOR.npz`"
        )
    if not math.isfinite(parsed.get("steer_lambda", 0.0)) or "steer_lambda" not in parsed:
        raise UsageError(
            f"`steer_lambda={parsed.get('steer_lambda', '')}` is not a number",
            "for example `--set steer_lambda=0.5`",
        )
    if parsed.get("steer_norm", "keep") not in NORMS:
        raise UsageError(f"unknown steer_norm `{parsed['steer_norm']}`", "it can be keep or free")
    if layers := parsed.get("steer_layers"):
        parse_layers(layers)
    path = Path(parsed["steer"]).expanduser()
    if not path.is_file():
        raise UsageError(
            f"there is no vector file `{parsed['steer']}`",
            "`bench steer` writes them to steering/vectors/ and names the file",
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {**parsed, "steer": str(path.absolute()), "steer_sha256": digest}
