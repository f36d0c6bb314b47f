"""Where a result comes from: code, versions and command line, for the manifest of a run."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    git_commit: str | None
    git_dirty: bool | None
    packages: dict[str, str]
    argv: tuple[str, ...]


def provenance(folder: Path | None = None) -> Provenance:
    """The state of the repository that `folder` (default: the current one) lies in, if any."""
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return Provenance(
        git_commit=commit,
        git_dirty=None if status is None else bool(status),
        packages=_packages(),
        argv=tuple(sys.argv),
    )


def _git(folder: Path | None, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _packages() -> dict[str, str]:
    found = {"tunebench": __version__, "python": platform.python_version()}
    for name in ("duckdb", "huggingface-hub", "pydantic"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
