"""The line that images come by: how fast it is now, and how much of it fetching may take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

WINDOW = 3.0
# Less than this of a window says more about the server's buffers than about the line.
LEAST = 0.5
# What fetching leaves itself of the line while a build needs it, and the least it goes on with:
# a connection that nothing comes through is closed by many servers.
SHARE = 0.25
FLOOR = 64 << 10
Sleep = Callable[[float], Awaitable[None]]


class Line:
    """Measures the bytes as they arrive, and holds them back when somebody else needs the line.

    limit: bytes a second at most; 0 means no limit. is_needed: whether a build needs the line now.
    """

    def __init__(
        self,
        *,
        limit: int = 0,
        is_needed: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._limit = limit
        self._is_needed = is_needed
        self._clock = clock
        self._sleep = sleep
        self._seen: deque[tuple[float, int]] = deque()
        self._begun = clock()
        self._full = 0.0
        self._free_at = 0.0

    def begin(self) -> None:
        """A connection was made: what was measured on the one before is not of this one."""
        self._seen.clear()
        self._begun = self._clock()

    @property
    def rate(self) -> float | None:
        """Bytes a second of the last seconds; None when too little came to say it."""
        now = self._clock()
        while self._seen and self._seen[0][0] < now - WINDOW:
            self._begun = self._seen.popleft()[0]
        span = now - self._begun
        return sum(size for _, size in self._seen) / span if span >= LEAST else None

    async def take(self, size: int) -> None:
        """So many bytes arrived; return when the next may be asked for."""
        now = self._clock()
        self._seen.append((now, size))
        allowed = self._allowed()
        if allowed:
            # Time not used while the line was slow is not made up for with a burst.
            self._free_at = max(self._free_at, now - LEAST) + size / allowed
            if self._free_at > now:
                await self._sleep(self._free_at - now)

    def _allowed(self) -> float:
        """Bytes a second that may be taken now; 0 means all that come."""
        if not self._is_needed():
            self._full = self.rate or self._full
            return self._limit
        if not self._full:
            self._full = self.rate or 0.0
        share = max(FLOOR, self._full * SHARE) if self._full else 0.0
        return min(share, self._limit) if share and self._limit else share or self._limit
