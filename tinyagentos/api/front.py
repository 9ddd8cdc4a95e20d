"""uvicorn's connections behind the front door, which has to know when a request is whole."""

from __future__ import annotations

from functools import partial

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tinyagentos.net.accept import Make
from tinyagentos.net.connections import Connection


def protocols(config: Config, state: ServerState) -> Make:
    """What makes uvicorn's protocol for a connection."""
    return partial(_Protocol, config, state)


class _Protocol(H11Protocol):
    """uvicorn's HTTP, which tells its connection of each request."""

    def __init__(self, config: Config, state: ServerState, connection: Connection) -> None:
        super().__init__(config, state, app_state={})
        self._connection = connection

    def handle_events(self) -> None:
        super().handle_events()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in self.headers}:
            # Where it ends is not sure, so nothing after it is read as a request (RFC 9112, 6.3).
            cycle.keep_alive = False
        if not cycle.more_body:
            self._connection.answering()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        self._connection.answering()  # from here on another protocol has the connection

    def on_response_complete(self) -> None:
        self._connection.idle()
        super().on_response_complete()
