"""The pages as one ASGI application. Importing this loads NiceGUI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from nicegui import Client, core, ui
from starlette.types import ASGIApp

from tinyagentos.access import COOKIE, digest
from tinyagentos.web.feed import Feed
from tinyagentos.web.frame import Site, say_not_found
from tinyagentos.web.look import HEAD
from tinyagentos.web.pages import agent, agents, host, images, jobs, models
from tinyagentos.web.services import Services

PAGES = (agents, agent, images, models, jobs, host)
# A phone that was in a pocket for half a minute finds its page as it was.
RECONNECT_WITHIN = 30.0


@asynccontextmanager
async def create_pages(services: Services) -> AsyncIterator[ASGIApp]:
    """The pages, alive while this lasts. NiceGUI knows one application: once for each process."""
    site = Site(services, Feed(services))
    ui.add_head_html(HEAD, shared=True)
    for page in PAGES:
        page.register(site)
    holder = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    ui.run_with(
        holder,
        root=say_not_found,
        title="taOS",
        viewport="width=device-width, initial-scale=1, viewport-fit=cover",
        dark=False,  # taos.js decides, it knows what the person chose
        language="en-US",
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=RECONNECT_WITHIN,
        message_history_length=200,
        show_welcome_message=False,
    )
    core.app.config.socket_io_js_transports = ["websocket"]
    # By default pages of any origin may read what its polling answers to the session's cookie.
    core.sio.eio.cors_allowed_origins = []
    core.sio.eio.transports = ["websocket"]
    logging.getLogger("nicegui").setLevel(logging.WARNING)
    services.access.on_end = end_pages
    async with holder.router.lifespan_context(holder):
        feeding = asyncio.create_task(site.feed.run(), name="feed of the pages")
        try:
            yield holder
        finally:
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding


def end_pages(session: str) -> None:
    """Close the open pages of the session that ended; all of them when it has no name."""
    for client in tuple(Client.instances.values()):
        request = client._request  # the public property raises when there is none
        token = request.cookies.get(COOKIE, "") if request else ""
        if not session or digest(token) == session:
            client.open("/login")
            asyncio.get_running_loop().call_later(1.0, client.delete)
