"""Serving the API on an address and on a Unix socket, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from fastapi import FastAPI

from tinyagentos.api.front import protocols
from tinyagentos.api.sockets import listening, web_address
from tinyagentos.api.streams import end_streams
from tinyagentos.config import Settings
from tinyagentos.net.accept import HEAD_MOST_BYTES, Acceptor
from tinyagentos.net.connections import Connections
from tinyagentos.net.limits import Limits

GRACE = 3
WS_MOST_BYTES = 256 * 1024
REMOTE = Limits()
# Only the owner can open it, and is not to be kept out by anybody who fills the address.
LOCAL = Limits(connections=256, files_share=16)


def announce(address: str) -> None:
    """Say where the server is."""
    print(f"taOS serves on {address}", file=sys.stderr)  # noqa: T201 - for people


async def serve(
    app: FastAPI,
    settings: Settings,
    *,
    sockets: Sequence[socket.socket] | None = None,
    on_started: Callable[[str], None] = announce,
) -> None:
    """Serve until SIGTERM, SIGINT or a cancel; on_started gets the web address when requests
    are answered.

    sockets: what listening() gave, for a caller that must know early that it is the only server.
    Raises what listening() raises.
    """
    if sockets is None:
        with listening(settings) as bound:
            await serve(app, settings, sockets=bound, on_started=on_started)
        return
    config = uvicorn.Config(
        app,
        http="h11",
        h11_max_incomplete_event_size=HEAD_MOST_BYTES,
        ws="websockets-sansio",
        ws_max_size=WS_MOST_BYTES,
        ws_per_message_deflate=False,  # a context of 300 kB for each open page, for a local net
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        lifespan="off",
        log_config=None,
        # It reports starts and ends, which we do ourselves, and each request that is no HTTP, with
        # which anybody could fill the log.
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        proxy_headers=False,
    )
    address = web_address(*sockets[0].getsockname()[:2], tls=config.is_ssl)
    server = _Server(config, app, lambda: on_started(address))
    serving = asyncio.ensure_future(server.serve(sockets=list(sockets)))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise


class _Server(uvicorn.Server):
    """uvicorn, with streams that end when it stops, and signals that end it and nothing else."""

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._streaming = app
        self._on_started = on_started
        self._remote = Connections("the API and the web pages", REMOTE)
        self._local = Connections("the server's Unix socket", LOCAL)
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # uvicorn's own listeners have no limits
        make = protocols(self.config, self.server_state)
        for one in sockets or ():
            is_local = one.family == socket.AF_UNIX
            acceptor = Acceptor(
                one, make, self._local if is_local else self._remote,
                # The Unix socket without TLS: nobody can listen in there.
                tls=None if is_local else self.config.ssl,
            )  # fmt: skip
            acceptor.start()
            self._acceptors.append(acceptor)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        end_streams(self._streaming)
        await super().shutdown(sockets)
        for connections in (self._remote, self._local):
            connections.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end: SIGTERM would end the process before
        # whoever called serve() could clean up.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
