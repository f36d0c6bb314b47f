"""Names that stand for several tasks."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "math_suite": ("gsm8k", "math"),
    "medical": ("medqa", "medmcqa"),
}
