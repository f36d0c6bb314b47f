"""Checkpoints on the way: whole once every process has written its part."""

from __future__ import annotations

from pathlib import Path

from harness.trainer import CHECKPOINTS


def mark_whole(folder: Path, step: int, process: int, processes: int) -> None:
    """Say that this process has written all of its part of a checkpoint."""
    place = folder / CHECKPOINTS / f"checkpoint-{step}"
    (place / f"whole-{process}-of-{processes}").touch()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that every process wrote to its end."""
    found = {
        int(path.name.rpartition("-")[2]): path
        for path in (folder / CHECKPOINTS).glob("checkpoint-*")
        if is_whole(path)
    }
    return found[max(found)] if found else None


def is_whole(checkpoint: Path) -> bool:
    marks = [path.name for path in checkpoint.glob("whole-*-of-*")]
    return bool(marks) and len(marks) == int(marks[0].rpartition("-")[2])
