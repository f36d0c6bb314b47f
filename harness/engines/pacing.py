"""How fast a server is asked: requests under way, and waits before the next attempt."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType

CUT_INTERVAL_S = 1.0
BASE_WAIT_S = 0.5
MOST_WAIT_S = 60.0


class Gate:
    """An async context for one attempt. As many may be inside as the server seems to bear.

    The limit begins at `most`. It is halved when the server is overloaded, at most once a second
    and once for everything that was sent before the last cut, and grows by one for each limit-full
    of answers (additive increase, multiplicative decrease, as TCP does).
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(most)
        self.least_limit = most
        self._most = most
        self._clock = clock
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cut_at = float("-inf")
        self._closed_until = float("-inf")

    async def __aenter__(self) -> None:
        while True:
            if (pause := self._closed_until - self._clock()) > 0:
                await asyncio.sleep(pause)
            elif self._inside >= int(self.limit):
                place = asyncio.get_running_loop().create_future()
                self._waiting.append(place)
                await place
            else:
                self._inside += 1
                return

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._inside -= 1
        self._let_in()

    def answered(self) -> None:
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def overloaded(self, sent_at: float) -> None:
        """The server said so, or was too slow, about a request sent at that time."""
        now = self._clock()
        if sent_at > self._cut_at and now - self._cut_at >= CUT_INTERVAL_S:
            self._cut_at = now
            self.limit = max(1.0, self.limit / 2)
            self.least_limit = min(self.least_limit, int(self.limit))

    def close_for(self, seconds: float) -> None:
        """Nobody enters before that."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    def _let_in(self) -> None:
        free = int(self.limit) - self._inside
        while free > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1


def backoff_s(attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds before the next attempt after `attempt` failed ones, with full jitter.

    >>> [backoff_s(n, lambda: 1.0) for n in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 60.0]
    """
    return draw() * min(MOST_WAIT_S, BASE_WAIT_S * 2.0 ** (attempt - 1))


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as such or as a date (RFC 9110).

    None where there is none or it cannot be read.

    >>> retry_after_s("1.5"), retry_after_s("soon"), retry_after_s(None)
    (1.5, None, None)
    >>> retry_after_s("Wed, 21 Oct 2026 07:28:10 GMT", datetime(2026, 10, 21, 7, 28, tzinfo=UTC))
    10.0
    """
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
