"""A finding: one line of a check (standard library only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`bad` stops a run, `warn` is worth knowing. hint: what to type or do about it."""

    check: str
    level: Level
    text: str
    hint: str = ""
