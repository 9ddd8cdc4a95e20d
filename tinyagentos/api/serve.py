"""Serving the API on an address and on a Unix socket, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import uvicorn
from fastapi import FastAPI

from tinyagentos.api.sockets import listening, web_address
from tinyagentos.api.streams import end_streams
from tinyagentos.config import Settings

GRACE = 3
WS_MOST_BYTES = 256 * 1024


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
        ws="websockets-sansio",
        ws_max_size=WS_MOST_BYTES,
        ws_per_message_deflate=False,  # a context of 300 kB for each open page, for a local net
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        lifespan="off",
        log_config=None,
        log_level="warning",  # it reports every start and end, which we do ourselves
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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.is_ssl and sockets:
            await super().startup([one for one in sockets if one.family != socket.AF_UNIX])
            for one in sockets:
                if one.family == socket.AF_UNIX:
                    await self._serve_plainly(one)
        else:
            await super().startup(sockets)
        self._on_started()

    async def _serve_plainly(self, local: socket.socket) -> None:
        """The Unix socket without TLS: nobody can listen in there."""
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class  # a class
        made = partial(
            protocol, config=self.config, server_state=self.server_state,
            app_state=self.lifespan.state,
        )  # fmt: skip
        self.servers.append(await asyncio.get_running_loop().create_unix_server(made, sock=local))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        end_streams(self._streaming)
        await super().shutdown(sockets)

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
