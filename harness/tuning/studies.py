"""Where studies are kept, and how they may be called."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import UsageError

STUDIES = "leaderboards/studies"
JOURNAL = "journal.log"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def folder_of(home: Path, name: str) -> Path:
    """Raises UsageError for what cannot be the name of a study."""
    check_name(name)
    return home / STUDIES / name


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"`{name}` cannot be the name of a study",
            "letters, digits, `.`, `_` and `-`, as in `--study lr-search`",
        )
