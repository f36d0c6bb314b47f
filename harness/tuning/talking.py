"""A child process that is asked by lines of JSON and answers by lines of JSON, for many jobs."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.launch import ended_on_exit, start
from harness.types import JSON


class Talking:
    """A module that is running. log: where its stderr goes at first."""

    def __init__(
        self,
        module: str,
        *,
        log: Path,
        python: str = "",
        variables: Mapping[str, str | None] | None = None,
    ) -> None:
        self.child = start(module, [], log=log, python=python, variables=variables)
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(ended_on_exit(self.child))
        self._said: queue.Queue[JSON | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, line: JSON) -> None:
        assert self.child.stdin is not None
        # ascii: a lone surrogate in a path must not stop it from being passed on. A child that is
        # gone is heard of when it is listened to.
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(json.dumps(line) + "\n")
            self.child.stdin.flush()

    def hear(self, timeout_s: float | None = None) -> JSON | None:
        """The next line; None once the child says nothing more. Raises queue.Empty."""
        return self._said.get(timeout=timeout_s)

    def status(self) -> int:
        """Its exit status; it ends now if it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(10.0)
        self.close()
        return self.child.returncode or 0

    def close(self) -> None:
        self._stack.close()

    def _listen(self) -> None:
        assert self.child.stdout is not None
        with contextlib.suppress(ValueError):  # closed while it was read
            for line in self.child.stdout:
                self._said.put(json.loads(line))
        self._said.put(None)
