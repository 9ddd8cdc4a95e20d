"""The open connections of a listener, or of several that share their limits."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from itertools import chain

from tinyagentos.net.limits import (
    Limits,
    Phase,
    Room,
    first_to_close,
    needs_to_have_asked,
    room_for,
)

_log = logging.getLogger(__name__)
# How often deadlines are looked at: a tenth of the shortest, and at least once a second.
MOST_TICK = 1.0
# A caller that takes nothing for so long is closed to make room, before its deadline.
STUCK_AFTER = 5.0
# Turns of the event loop in which a new connection is heard at the latest, with time to spare.
TURNS = 16
# Lines in the log about a full listener are so many seconds apart.
SAY_EVERY = 60.0


def most_files() -> int:
    """The most files that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Connection:
    """One open connection. Its server says when a request is whole and when it is answered."""

    def __init__(self, caller: Hashable, all_: Connections) -> None:
        self.caller = caller
        self._all = all_
        self._since = all_.now()
        self._is_answering = False
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
        self._is_answering = True
        self._all.note(self)

    def idle(self) -> None:
        """The request is answered; the next one has to come in time."""
        self._is_answering = False
        self._since = self._all.now()
        self._all.note(self)

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        if not self._is_answering:
            return Phase.waiting
        stuck = self._stuck_since
        is_stuck = stuck is not None and self._all.now() - stuck > STUCK_AFTER
        return Phase.stuck if is_stuck else Phase.answering

    @property
    def since(self) -> float:
        """When that began."""
        return self._since if self._stuck_since is None else self._stuck_since

    def is_late(self, limits: Limits) -> bool:
        """Whether a deadline is over. To be asked every MOST_TICK seconds at least."""
        now = self._all.now()
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
        return not self._is_answering and now - self._since > limits.request_within

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
        self._open: set[Connection] = set()
        self._waiting: OrderedDict[Connection, None] = OrderedDict()  # the longest first
        self._callers: Counter[Hashable] = Counter()
        self._tick: asyncio.TimerHandle | None = None
        self._closed_for_room: Counter[Hashable] = Counter()
        self._said_at: float | None = None

    def __len__(self) -> int:
        return len(self._open)

    def at_once(self) -> int:
        """How many to take before the event loop does other things.

        A new connection is read some turns of the loop after it was taken. Until then not so many
        others may come that it is closed to make room for them.
        """
        return max(1, self.limits.most_each(most_files()) // TURNS)

    def admit(self, caller: Hashable, has_asked: Callable[[], bool]) -> Connection | None:
        """The caller's next connection, another closed for it if need be; None when it gets none.

        caller: None for one without a limit of its own. has_asked: whether a whole request is there
        already. Who gets a connection calls forget() when its file is closed.
        """
        room = room_for(self._count(caller), len(self._open), self.limits, most_files())
        if room is not Room.free:
            closed = self._make_room(caller, room, has_asked)
            self._say_full(closed.caller if closed else caller)
            if closed is None:
                return None
        connection = Connection(caller, self)
        self._open.add(connection)
        self._waiting[connection] = None
        self._callers[caller] += 1
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(self._every, self._look)
        return connection

    def note(self, connection: Connection) -> None:
        """The connection begins to wait for a request, or to answer one."""
        self._waiting.pop(connection, None)
        if connection.phase is Phase.waiting and connection in self._open:
            self._waiting[connection] = None

    def now(self) -> float:
        """The time on the clock."""
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def forget(self, connection: Connection) -> None:
        """The connection's file is closed. May be called twice."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._waiting.pop(connection, None)
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

    def _count(self, caller: Hashable) -> int:
        return 0 if caller is None else self._callers[caller]

    def _make_room(
        self, caller: Hashable, room: Room, has_asked: Callable[[], bool]
    ) -> Connection | None:
        """Close a connection and return it; None when there is none that may be closed."""
        if room is Room.one_of_callers and not self.limits.replaces_own:
            return None
        found = first_to_close(
            one for one in chain(self._waiting, self._open)
            if room is Room.one_of_anybody
            or (one.caller == caller) == (room is Room.one_of_callers)
        )  # fmt: skip
        if found is None or (needs_to_have_asked(found, self.now()) and not has_asked()):
            return None
        found.close()
        self.forget(found)  # its file is closed in the loop's next turn
        return found

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
        now = self.now()
        if self._said_at is not None and now - self._said_at < SAY_EVERY:
            return
        busiest, most = self._closed_for_room.most_common(1)[0]
        _log.warning(
            "too many connections to %s: %d were closed, %d of them from %s",
            self._name, self._closed_for_room.total(), most, busiest,
        )  # fmt: skip
        self._said_at = now
        self._closed_for_room.clear()
