"""The gateway's Unix socket.

The proxy device of an agent is a process of its own on the host: its number tells whose a
connection is.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tinyagentos.gateway.limits import Limits
from tinyagentos.net import limits as net
from tinyagentos.net.accept import BACKLOG, Acceptor, Make, process_of
from tinyagentos.net.connections import Connections


def connections_of(limits: Limits) -> Connections:
    """The gateway's connections, none yet."""
    return Connections(
        "the model gateway",
        net.Limits(
            connections=limits.connections,
            connections_each=limits.connections_each,
            # Each may have another to a provider; what is left is for the pages, the API and Incus.
            files_share=3,
            request_within=limits.idle_within,
            take_within=limits.silent_within,
            # An agent that asks too much is not to lose a question of its own.
            replaces_own=False,
        ),
    )


@contextlib.contextmanager
def listening(path: Path, make: Make, connections: Connections) -> Iterator[None]:
    """Have connections to the socket, which only root can open, answered while it lasts."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        acceptor = Acceptor(listener, make, connections, caller_of=process_of)
        acceptor.start()
        try:
            yield
        finally:
            acceptor.stop()
            path.unlink(missing_ok=True)
