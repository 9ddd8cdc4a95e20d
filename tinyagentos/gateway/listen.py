"""The gateway's Unix socket, and how many may be connected to it.

A connection costs an open file of the server, before anybody said who it is. The proxy device of
an agent is a process of its own on the host: its number tells whose a connection is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from tinyagentos.gateway.limits import Limits

_log = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")
BACKLOG = 512
# When there is no file left to accept with, somebody else has to close one first.
PAUSE = 1.0


@contextlib.asynccontextmanager
async def listening(
    path: Path, make: Callable[[], asyncio.Protocol], limits: Limits
) -> AsyncIterator[None]:
    """Have connections to the socket, which only root can open, answered while it lasts."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        accepting = asyncio.create_task(_accept(listener, make, limits), name="gateway")
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            path.unlink(missing_ok=True)


def admits(caller: int, callers: Sequence[int], limits: Limits, most_files: int) -> bool:
    """Whether a process may have one more connection beside those that are open.

    caller: 0 when the kernel does not tell, which leaves the bound on all of them.
    """
    # Each may have another to a provider; what is left is for the pages, the API and Incus.
    if len(callers) >= min(limits.connections, most_files // 3):
        return False
    return not caller or callers.count(caller) < limits.connections_each


async def _accept(
    listener: socket.socket, make: Callable[[], asyncio.Protocol], limits: Limits
) -> None:
    loop = asyncio.get_running_loop()
    callers: dict[socket.socket, int] = {}
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
            # One that is closed has no number any more; closing can wait for who does not read.
            callers = {one: caller for one, caller in callers.items() if one.fileno() >= 0}
            caller = _caller(connection)
            most_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if not admits(caller, list(callers.values()), limits, most_files):
                connection.close()
                await asyncio.sleep(0)  # accepting one that waits gives nobody else a turn
                continue
            callers[connection] = caller
            await loop.connect_accepted_socket(make, connection)
        except OSError as error:
            _log.warning("a connection to the gateway was not accepted: %s", error)
            await asyncio.sleep(PAUSE)


def _caller(connection: socket.socket) -> int:
    seen = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process: int = _CREDENTIALS.unpack(seen)[0]  # unix(7): process, user and group
    return process
