"""Where a result comes from: code, versions and command line, for the manifest of a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
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


def process_age_s() -> float:
    """Seconds since this process began; 0 where the system does not tell."""
    try:
        # Field 22 counts from the start of the machine (man proc_pid_stat); a name may hold spaces.
        text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        began_s = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)


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
