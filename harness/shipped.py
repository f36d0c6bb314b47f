"""Files that come with the project, whether it runs from a checkout or from a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(path: str) -> Path:
    """The file or folder at `path` of the project (`leaderboards/schema.sql`).

    The checkout's own, where the package lies in one; a wheel carries copies in the package.
    """
    in_checkout = _PACKAGE.parent / path
    return in_checkout if in_checkout.exists() else _PACKAGE / "_shipped" / path
