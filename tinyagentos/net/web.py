"""aiohttp's servers behind the front door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import cast

from aiohttp import web

from tinyagentos.net.accept import Make
from tinyagentos.net.connections import Connection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# aiohttp handles a request in tasks that its connection began, so they inherit this.
_current: ContextVar[Connection] = ContextVar("connection")


def protocols(runner: web.AppRunner) -> Make:
    """What makes the runner's protocol for a connection. The runner has been set up."""
    server = cast(web.Server, runner.server)  # setup() has made it

    def make(connection: Connection) -> asyncio.Protocol:
        _current.set(connection)
        return server()

    return make


@web.middleware
async def note_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection when a request's head is there, and when it is answered.

    A middleware for every application behind the front door. The handler reads the body, so it
    needs a deadline for that of its own.
    """
    connection = _current.get()
    connection.answering()
    try:
        return await handler(request)
    finally:
        connection.idle()
