"""Who is at an agent now: one that somebody talks to or looks at is not idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime


class Uses:
    """Conversations, shells and open pages, by instance."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._open: Counter[str] = Counter()
        self._ended: dict[str, datetime] = {}

    @contextmanager
    def using(self, instance: str) -> Iterator[None]:
        """The instance is in use while this lasts."""
        self._open[instance] += 1
        try:
            yield
        finally:
            self._open[instance] -= 1
            self._ended[instance] = self._now()

    def last(self, instance: str) -> datetime | None:
        """When it was last in use: now, when it is; None when this server never saw it."""
        return self._now() if self._open[instance] else self._ended.get(instance)
