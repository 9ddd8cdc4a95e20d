"""Taking connections from a listening socket, within limits."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from tinyagentos.net.connections import Connection, Connections
from tinyagentos.net.limits import network_of

_log = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")
# Callers that wait to be taken (listen(2)): in a flood many come between two turns of the loop.
BACKLOG = 4096
# Callers looked at in one turn of the loop; to turn one away, as in a flood, costs little.
LOOKED_AT = 256
HEAD_MOST_BYTES = 16 * 1024
END_OF_HEAD = b"\r\n\r\n"
# When there is no file left to accept with, somebody else has to close one first.
PAUSE = 0.5
# Lines in the log about connections that cannot be taken are so many seconds apart.
SAY_EVERY = 60.0
SHUTDOWN_WITHIN = 5.0

Make = Callable[[Connection], asyncio.Protocol]
CallerOf = Callable[[socket.socket, Any], Hashable]  # Any: an address has each family's own form


class Acceptor:
    """Takes connections from start() to stop(). What is open then stays open."""

    def __init__(
        self,
        listener: socket.socket,
        make: Make,
        connections: Connections,
        *,
        tls: ssl.SSLContext | None = None,
        caller_of: CallerOf | None = None,
    ) -> None:
        """listener: listens already, with room for BACKLOG. make: the protocol for a connection.

        connections: may be shared with other listeners.
        caller_of: whose a connection is; by default its address, and nobody's for a Unix socket.
        """
        self._listener = listener
        self._make = make
        self._connections = connections
        self._tls = tls
        self._caller_of = caller_of or address_of
        self._pausing: asyncio.TimerHandle | None = None
        self._said_at: float | None = None
        self._is_on = False

    def start(self) -> None:
        """Take connections from now on."""
        self._listener.setblocking(False)
        self._is_on = True
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Take no more."""
        if not self._is_on:
            return
        self._is_on = False
        if self._pausing:
            self._pausing.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)

    def _accept(self) -> None:
        left = self._connections.at_once()
        for _ in range(LOOKED_AT):
            if not left:
                return
            try:
                plain, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            left -= self._take(plain, address)

    def _take(self, plain: socket.socket, address: object) -> bool:
        """Give the caller a connection; False when it is turned away."""
        caller = self._caller_of(plain, address)
        connection = self._connections.admit(caller, lambda: has_asked(plain, bool(self._tls)))
        if connection is None:
            plain.close()
            return False
        taken = _Taken(plain, partial(self._connections.forget, connection))
        task = asyncio.get_running_loop().create_task(self._open(connection, taken))
        connection.opened_by(task)
        task.add_done_callback(partial(_close_unopened, taken))
        return True

    async def _open(self, connection: Connection, taken: socket.socket) -> None:
        """Give the connection its protocol; with TLS after the handshake."""
        within = self._connections.limits.request_within
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            partial(self._make, connection), taken, ssl=self._tls,
            ssl_handshake_timeout=within if self._tls else None,
            ssl_shutdown_timeout=SHUTDOWN_WITHIN if self._tls else None,
        )  # fmt: skip
        connection.opened(transport)

    def _pause(self, error: OSError) -> None:
        """Let the loop do other things for a while: the listener stays readable."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._pausing = loop.call_later(PAUSE, loop.add_reader, self._listener, self._accept)
        if self._said_at is None or loop.time() - self._said_at >= SAY_EVERY:
            self._said_at = loop.time()
            _log.error("connections cannot be taken, trying again every %s s: %s", PAUSE, error)


class _Taken(socket.socket):
    """An accepted connection that says when its file is closed, whoever closes it."""

    def __init__(self, plain: socket.socket, on_close: Callable[[], None]) -> None:
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self._on_close = on_close

    def close(self) -> None:
        super().close()
        self._on_close()


def _close_unopened(taken: socket.socket, task: asyncio.Task[None]) -> None:
    """Close what got no protocol: its caller left, failed the handshake, or was not waited for."""
    if task.cancelled():
        taken.close()
    elif error := task.exception():
        taken.close()
        if not isinstance(error, OSError):  # of a caller's making: TLS and broken connections
            _log.error("a connection was not opened", exc_info=error)


def has_asked(connection: socket.socket, tls: bool) -> bool:
    """Whether a whole head of a request has come; with TLS, whether anything has."""
    try:
        come = connection.recv(1 if tls else HEAD_MOST_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # nothing has, or the caller is gone
        return False
    return bool(come) if tls else END_OF_HEAD in come


def address_of(_: socket.socket, address: object) -> str | None:
    """The network of a TCP connection's address; None for a Unix socket."""
    return network_of(str(address[0])) if isinstance(address, tuple) else None


def process_of(connection: socket.socket, _: object) -> int | None:
    """The process at the other end of a Unix socket; None when the kernel does not tell."""
    seen = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process: int = _CREDENTIALS.unpack(seen)[0]  # unix(7): process, user and group
    return process or None
