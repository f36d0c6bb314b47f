"""Optuna's journal with a lock that the kernel gives back when its holder is killed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock


class _Held(JournalFileOpenLock):
    """Optuna's own locks are files that a killed process leaves behind, and others then wait half a
    minute for."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path.with_name(f".{path.name}.lock")
        self._descriptor = -1

    def acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._descriptor)


def storage(path: Path) -> JournalStorage:
    """The journal in that file, which is made where it is not there. Raises ValueError where it is
    damaged."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_Held(path)))
