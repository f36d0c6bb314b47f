"""Lines of JSON, read and written at the speed of msgspec where it is installed.

A worker may run under an interpreter that has nothing but an engine, so the standard library does
the same there. It also does what msgspec refuses: lone surrogates, and numbers that are not finite.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False).encode


def read_line(line: bytes) -> Any:
    """The value of a line. Raises ValueError where it is not JSON.

    >>> read_line(b'{"a": NaN}')
    {'a': nan}
    """
    if (fast := _msgspec()) is not None:
        try:
            return fast.json.decode(line)
        except fast.DecodeError:
            pass
    return json.loads(line)


def written_line(row: Mapping[str, Any]) -> bytes:
    """A flat object as a line with its end; a lone surrogate becomes `?`: no file carries it.

    >>> written_line({"a": -math.inf, "b": ""})
    b'{"a": -Infinity, "b": ""}\\n'
    """
    if (fast := _msgspec()) is not None and _finite(row.values()):
        try:
            return bytes(fast.json.encode(row)) + b"\n"
        except UnicodeEncodeError:
            pass
    return (_encode(dict(row)) + "\n").encode("utf-8", errors="replace")


@functools.cache
def _msgspec() -> ModuleType | None:
    try:
        import msgspec  # 20 ms, which commands that read no lines need not wait for
    except ImportError:
        return None
    return msgspec


def _finite(values: Iterable[Any]) -> bool:
    """Whether every number, also in lists of numbers, is finite: msgspec would write null."""
    for value in values:
        kind = type(value)
        if kind is float:
            if not math.isfinite(value):
                return False
        elif (kind is tuple or kind is list) and not math.isfinite(sum(value)):
            return False
    return True
