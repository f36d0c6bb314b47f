"""The process in which sympy reads what a model wrote: `python -m harness.scorers.math_worker KIND`

It imports sympy once, warms one rule up and then forks a child that answers requests, one JSON
array a line. A child that does not come back is killed by whoever asked, and its successor is there
in milliseconds.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType

Rule = Callable[[str, str], bool]
Kinds = dict[str, Rule]

_MEMORY_LIMIT = 3 * 2**29


class _TimeIsUp(BaseException):
    """Not an Exception, so that the many handlers of sympy let it through."""


def main() -> None:
    try:
        from harness.scorers.verdicts import KINDS, warm_up

        warm_up(sys.argv[1])
    except ImportError as error:
        _write({"missing": str(error)})
        return
    sys.setrecursionlimit(5_000)
    while True:
        if os.fork() == 0:
            _serve(KINDS)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
            return


def _serve(kinds: Kinds) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    signal.signal(signal.SIGPROF, _stop)
    _write({"pid": os.getpid()})
    while line := _line():
        kind, answer, gold, limit_s = json.loads(line)
        _write(_verdict(kinds[kind], answer, gold, limit_s))


def _line() -> bytes:
    """The next line, or b'' at the end. Only one request is ever under way, and nothing is read
    ahead: a buffer would die with the child."""
    read = b""
    while not read.endswith(b"\n"):
        part = os.read(0, 1 << 20)
        if not part:
            return b""
        read += part
    return read


def _write(reply: dict[str, object]) -> None:
    """One write, so that a kill leaves a whole line or none."""
    os.write(1, json.dumps(reply).encode() + b"\n")


def _verdict(rule: Rule, answer: str, gold: str, limit_s: float) -> dict[str, object]:
    # Processor time, which a busy machine does not use up; who asked also looks at the clock.
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        return {"equal": rule(answer, gold)}
    except _TimeIsUp:
        return {"equal": False, "why": "time limit"}
    except Exception as error:  # noqa: BLE001 - sympy raises anything on foreign text
        return {"equal": False, "why": type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TimeIsUp


if __name__ == "__main__":
    main()
