"""Whether the disk has room for the checkpoints of a training, asked before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness import estimate, footprint
from harness.errors import UsageError
from harness.session import Listener
from harness.types import ModelSpec, Recipe


def require(
    home: Path,
    recipe: Recipe,
    spec: ModelSpec,
    listener: Listener,
    *,
    copies: int = 1,
    steps: int = 0,
    more: int = 0,
) -> None:
    """Raises UsageError where there is too little. copies: as many times of what one training
    leaves. steps, more: as in `footprint.checkpoint_gb`."""
    try:
        each_gb = footprint.checkpoint_gb(recipe, estimate.shape(spec, home), steps, more)
    except UsageError as error:
        listener.note(f"room for checkpoints is not checked: {error.message}")
        return
    there = next(place for place in (home, *home.parents) if place.is_dir())
    needed_gb, free_gb = copies * each_gb, shutil.disk_usage(there).free / 1e9
    if needed_gb > free_gb:
        raise UsageError(
            f"the checkpoints need about {needed_gb:.1f} GB, `{home}` has {free_gb:.1f} GB free",
            "free some space, set `keep_checkpoints`, or use another `--home`",
        )
