"""The completions of a run by request: places in the file are held in memory, not the texts."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from harness.errors import StoreError
from harness.json_lines import read_line
from harness.runs import COMPLETIONS
from harness.types import JSON, Completion, completion_from_json

# As the worker writes a line; any other spelling is parsed in full.
_HEAD = re.compile(rb'\{"request_id": "([^"\\]+)", "index": (\d+)')


class Completions:
    """Random access to `completions.jsonl`; a torn last line is left out, the last of equals wins.

    Sixteen long answers to 5,000 questions are hundreds of megabytes, of which this holds none.
    Raises StoreError for a line that is not JSON.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / COMPLETIONS
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Completions:
        if self._path.exists():
            self._file = self._path.open("rb")
            self._index(self._file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def find(self, request_id: str, index: int) -> Completion | None:
        """The completion, None where there is none yet."""
        place = self._places.get((request_id, index))
        if place is None or self._file is None:
            return None
        start, length = place
        self._file.seek(start)
        return completion_from_json(self._parsed(self._file.read(length), start))

    def _index(self, file: BinaryIO) -> None:
        start = 0
        for line in file:
            if not line.endswith(b"\n"):
                return
            self._places[self._key(line, start)] = (start, len(line))
            start += len(line)

    def _key(self, line: bytes, start: int) -> tuple[str, int]:
        head = _HEAD.match(line)
        if head:
            return head[1].decode(), int(head[2])
        value = self._parsed(line, start)
        return value["request_id"], value.get("index", 0)

    def _parsed(self, line: bytes, start: int) -> JSON:
        try:
            value: JSON = read_line(line)
        except ValueError as error:
            raise StoreError(
                f"`{self._path}` has a line at byte {start} that is not JSON: {error}",
                "the run folder is damaged; `--fresh` starts the run anew",
            ) from error
        return value
