"""Peak memory of a piece of work on the CPU, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def peak_above(work: Callable[[], None]) -> int:
    """Bytes of resident memory at the highest, above what was resident before. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
