"""The two error families.

    BenchError               the user can fix it: one sentence and a hint, no traceback
    ├── UsageError           a wrong name, key or value; nothing was started (exit status 2)
    ├── DataError            a dataset that is missing, empty, torn or not in the expected columns
    ├── StoreError           the history cannot be opened, read or written
    └── WorkerError          a worker process ended early; carries a cause label

Everything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Something the user can fix: `message` is one sentence, `hint` can be typed or done."""

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BenchError):
    exit_status = 2


class DataError(BenchError):
    pass


class StoreError(BenchError):
    pass


class WorkerError(BenchError):
    """`cause` is a label fit for SQL: out_of_memory, killed, import_error, context_length, …"""

    def __init__(self, message: str, hint: str = "", *, cause: str = "worker_error") -> None:
        super().__init__(message, hint)
        self.cause = cause


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint that names the nearest known word, else `otherwise`.

    >>> did_you_mean("gsm8kk", ["gsm8k", "mmlu"])
    'did you mean `gsm8k`?'
    """
    by_folded = {word.casefold(): word for word in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return f"did you mean `{by_folded[near[0]]}`?" if near else otherwise
