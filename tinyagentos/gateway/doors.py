"""Who may knock at the gateway: how many connections at once, and how long without a question.

All agents share one socket. What connects to it for an agent is a process of its own (Incus's
proxy), so that the kernel tells whose connections are whose before anything was said.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from aiohttp import web

MOST_CONNECTIONS = 512
MOST_OF_ONE = 64
# Seconds that a connection may take to put its first or its next question whole.
SILENT_WITHIN = 75.0
# unix(7), SO_PEERCRED: pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Doors:
    """Serves an application at a Unix socket, to so many at a time."""

    def __init__(
        self, *, most: int = MOST_CONNECTIONS, of_one: int = MOST_OF_ONE,
        silent_within: float = SILENT_WITHIN,
    ) -> None:  # fmt: skip
        self._most = most
        self._of_one = of_one
        self._silent_within = silent_within
        self._open: Counter[int] = Counter()
        self._timers: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    async def open(self, runner: web.AppRunner, path: Path) -> asyncio.Server:
        """Begin to serve an application whose middlewares have `asks` of this."""
        loop = asyncio.get_running_loop()
        await runner.setup()
        server = cast(web.Server, runner.server)  # there is one once it is set up
        return await loop.create_unix_server(lambda: _Guarded(self, server()), str(path))

    @web.middleware
    async def asks(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A question that was put in time: while it is answered no clock runs."""
        transport = request.transport
        if transport is None:
            return await handler(request)
        self._stop_clock(transport)
        try:
            return await handler(request)
        finally:
            if not transport.is_closing():
                self._start_clock(transport)

    def enter(self, transport: asyncio.BaseTransport) -> bool:
        """Whether there is room for one more connection of whoever this is; it is then counted."""
        pid = _peer(transport)
        if self._open.total() >= self._most or self._open[pid] >= self._of_one:
            return False
        self._open[pid] += 1
        self._start_clock(transport)
        return True

    def leave(self, transport: asyncio.BaseTransport, pid: int) -> None:
        """The connection is over."""
        self._stop_clock(transport)
        self._open[pid] -= 1
        if not self._open[pid]:
            del self._open[pid]

    def _start_clock(self, transport: asyncio.BaseTransport) -> None:
        self._stop_clock(transport)
        loop = asyncio.get_running_loop()
        self._timers[transport] = loop.call_later(self._silent_within, transport.close)

    def _stop_clock(self, transport: asyncio.BaseTransport) -> None:
        if timer := self._timers.pop(transport, None):
            timer.cancel()


class _Guarded(asyncio.Protocol):
    """Stands before aiohttp's own protocol, and passes everything on once it let somebody in."""

    def __init__(self, doors: Doors, inner: asyncio.Protocol) -> None:
        self._doors = doors
        self._inner = inner
        self._pid = 0
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or close it at once."""
        if not self._doors.enter(transport):
            transport.close()
            return
        self._transport, self._pid = transport, _peer(transport)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self._transport:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._inner.eof_received() if self._transport else None

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on, and count it out."""
        if self._transport:
            self._doors.leave(self._transport, self._pid)
            self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        """Pass it on."""
        if self._transport:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._transport:
            self._inner.resume_writing()


def _peer(transport: asyncio.BaseTransport) -> int:
    """The process at the other end."""
    connection: socket.socket = transport.get_extra_info("socket")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(found)[0]
    return pid
