"""Who of several replicas answers what: prefixes stay together, and nobody is idle at the end."""

from __future__ import annotations

from collections.abc import Sequence

from harness.engines.trie import shared_bytes
from harness.types import Request

LEAST = 16
"""Requests of one take: below this, starting and draining a batch costs more than balance gains."""

_SHARE = 4  # of what is left of a region goes out in one take, so that the rest can be stolen


class Shards:
    """Requests in the order of their prompts, cut into one region for each replica.

    A replica takes from the front of its own region; one whose region is empty takes over the rear
    half of the longest other one.

    >>> shards = Shards([Request(id=str(i), kind="generate", prompt=str(i)) for i in range(3)], 2)
    >>> [[request.id for request in shards.take(slot)] for slot in (0, 1, 0)]
    [['0', '1'], ['2'], []]
    """

    def __init__(self, requests: Sequence[Request], replicas: int) -> None:
        ordered = sorted(requests, key=_place)
        self._regions: list[list[Request]] = []
        for left in range(replicas, 0, -1):
            size = _cut(ordered, -(-len(ordered) // left))
            self._regions.append(ordered[:size])
            ordered = ordered[size:]

    def take(self, slot: int) -> list[Request]:
        """What the replica in that slot is to do next; nothing when all is taken."""
        if not self._regions[slot]:
            self._steal(slot)
        region = self._regions[slot]
        size = _cut(region, max(LEAST, len(region) // _SHARE))
        taken, self._regions[slot] = region[:size], region[size:]
        return taken

    def give_back(self, slot: int, requests: Sequence[Request]) -> None:
        """What was taken and not done is the next to be taken."""
        self._regions[slot] = [*requests, *self._regions[slot]]

    def _steal(self, slot: int) -> None:
        longest = max(self._regions, key=len)
        keep = _cut(longest, len(longest) // 2) if len(longest) > LEAST else 0
        self._regions[slot] = longest[keep:]
        del longest[keep:]


def _place(request: Request) -> tuple[bool, str]:
    """Scoring before generation, and texts that begin alike side by side."""
    return request.kind == "generate", _text(request)


def _text(request: Request) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n".join(message.content for message in request.prompt)


def _cut(ordered: Sequence[Request], wanted: int) -> int:
    """About that many, ending where two neighbours have least in common."""
    if wanted >= len(ordered):
        return len(ordered)
    near = range(max(1, wanted - wanted // 4), min(len(ordered), wanted + wanted // 4 + 1))
    return min(near, key=lambda place: (_shared(ordered, place), abs(place - wanted)))


def _shared(ordered: Sequence[Request], place: int) -> int:
    """Bytes that the texts on both sides of a place begin with alike."""
    before, after = (
        _text(one).encode("utf-8", "replace") for one in ordered[place - 1 : place + 1]
    )
    return shared_bytes(before, after)
