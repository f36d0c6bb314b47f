"""How far an evaluation is, on stderr: one line that is rewritten, or a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.types import JSON


class Progress:
    """A `Listener` for people. Without a terminal it writes a line every ten seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._started = self._told = 0.0
        self._model = ""
        self._shown = 0

    def note(self, text: str) -> None:
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def progress(self, model: str, counts: JSON) -> None:
        now = time.monotonic()
        if model != self._model:
            self._model, self._started, self._told = model, now, now
        finished = counts["done"] == counts["total"]
        if not finished and now - self._told < (0.2 if self._live else 10.0):
            return
        self._told = now
        line = self._line(counts, now - self._started)
        if self._live:
            print(f"\r{line:<{self._shown}}", end="", file=sys.stderr, flush=True)
            self._shown = len(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live and self._shown:
            print(file=sys.stderr, flush=True)
            self._shown = 0

    def _clear(self) -> None:
        if self._live and self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=sys.stderr)
            self._shown = 0

    def _line(self, counts: JSON, seconds: float) -> str:
        done, total = counts["done"], counts["total"]
        tokens = counts["prompt_tokens"] + counts["completion_tokens"]
        parts = [f"{self._model}: {done:,}/{total:,}"]
        if seconds > 0.5 and done:
            parts += [f"{done / seconds:,.1f}/s"]
            parts += [f"{tokens / seconds:,.0f} tokens/s"] if tokens else []
            parts.append(f"{duration((total - done) * seconds / done)} left")
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """
    >>> duration(75)
    '1:15'
    >>> duration(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
