"""The open connections of a listener, or of several that share their limits."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Callable, Hashable

from tinyagentos.net.limits import Limits, Phase, Room, first_to_close, room_for

_log = logging.getLogger(__name__)
# How often deadlines are looked at: a tenth of the shortest, and at least once a second.
MOST_TICK = 1.0
# A caller that takes nothing for so long is closed to make room, before its deadline.
STUCK_AFTER = 5.0
# Lines in the log about a full listener are so many seconds apart.
SAY_EVERY = 60.0


class Connection:
    """One open connection. Its server says when a request is whole and when it is answered."""

    def __init__(self, caller: Hashable, now: Callable[[], float]) -> None:
        self.caller = caller
        self._now = now
        self._phase = Phase.new
        self._since = now()
        self._stuck_since: float | None = None
        self._left = 0  # bytes of answers that waited for the caller when last looked at
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None

    def opened_by(self, task: asyncio.Task[None]) -> None:
        """Have the task cancelled when the connection is closed before it is opened."""
        self._opening = task

    def opened(self, transport: asyncio.Transport) -> None:
        """The connection has a transport; with TLS after the handshake."""
        self._transport, self._opening = transport, None

    def answering(self) -> None:
        """A whole request is there; what goes on now may last."""
        self._phase = Phase.answering

    def idle(self) -> None:
        """The request is answered; the next one has to come in time."""
        self._phase, self._since = Phase.idle, self._now()

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        stuck = self._phase is Phase.answering and self._stuck_since is not None
        if stuck and self._now() - self.since > STUCK_AFTER:
            return Phase.stuck
        return self._phase

    @property
    def since(self) -> float:
        """When that began."""
        return self._since if self._stuck_since is None else self._stuck_since

    def is_late(self, limits: Limits) -> bool:
        """Whether a deadline is over. To be asked every MOST_TICK seconds at least."""
        now = self._now()
        left = self._transport.get_write_buffer_size() if self._transport else 0
        if not left or left < self._left:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        self._left = left
        if left:  # the next request can wait until the answer is taken
            self._since = now
        if self._stuck_since is not None:
            return now - self._stuck_since > limits.take_within
        return self._phase is not Phase.answering and now - self._since > limits.request_within

    def close(self) -> None:
        """Close it now, with what was not sent yet."""
        if self._opening:
            self._opening.cancel()
        if self._transport:
            self._transport.abort()


class Connections:
    """How many connections there are and whose, and when each has to be over."""

    def __init__(self, name: str, limits: Limits, now: Callable[[], float] | None = None) -> None:
        """name: what the log calls it. now: a clock, in seconds; by default the event loop's."""
        self.limits = limits
        self._name = name
        self._clock = now
        self._open: dict[Connection, None] = {}  # the oldest first
        self._callers: Counter[Hashable] = Counter()
        self._tick: asyncio.TimerHandle | None = None
        self._closed_for_room: Counter[Hashable] = Counter()
        self._said_at: float | None = None

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, caller: Hashable) -> Connection | None:
        """The caller's next connection, another closed for it if need be; None when it gets none.

        caller: None for one without a limit of its own. Who gets a connection calls forget() when
        its file is closed.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = room_for(self._count(caller), len(self._open), self.limits, files)
        if room is not Room.free:
            closed = self._make_room(caller, room)
            self._say_full(closed.caller if closed else caller)
            if closed is None:
                return None
        connection = Connection(caller, self._now)
        self._open[connection] = None
        self._callers[caller] += 1
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(self._every, self._look)
        return connection

    def forget(self, connection: Connection) -> None:
        """The connection's file is closed. May be called twice."""
        if connection not in self._open:
            return
        del self._open[connection]
        self._callers[connection.caller] -= 1
        if not self._callers[connection.caller]:
            del self._callers[connection.caller]

    def close(self) -> None:
        """Close every connection."""
        for one in tuple(self._open):
            one.close()
        if self._tick:
            self._tick.cancel()
            self._tick = None

    @property
    def _every(self) -> float:
        return min(MOST_TICK, self.limits.request_within / 10, self.limits.take_within / 10)

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def _count(self, caller: Hashable) -> int:
        return 0 if caller is None else self._callers[caller]

    def _make_room(self, caller: Hashable, room: Room) -> Connection | None:
        """Close a connection and return it; None when there is none that may be closed."""
        if room is Room.one_of_callers and not self.limits.replaces_own:
            return None
        closed = first_to_close(
            one for one in self._open
            if room is Room.one_of_anybody
            or (one.caller == caller) == (room is Room.one_of_callers)
        )  # fmt: skip
        if closed:
            closed.close()
            self.forget(closed)  # its file is closed in the loop's next turn
        return closed

    def _look(self) -> None:
        """Close what is late; look again as long as there is a connection."""
        for one in tuple(self._open):
            if one.is_late(self.limits):
                one.close()
        again = bool(self._open)
        loop = asyncio.get_running_loop()
        self._tick = loop.call_later(self._every, self._look) if again else None

    def _say_full(self, caller: Hashable) -> None:
        """Log that connections were closed or turned away, once a minute."""
        self._closed_for_room[caller] += 1
        now = self._now()
        if self._said_at is not None and now - self._said_at < SAY_EVERY:
            return
        busiest, most = self._closed_for_room.most_common(1)[0]
        _log.warning(
            "too many connections to %s: %d were closed, %d of them from %s",
            self._name, self._closed_for_room.total(), most, busiest,
        )  # fmt: skip
        self._said_at = now
        self._closed_for_room.clear()
