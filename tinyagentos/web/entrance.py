"""The way into the pages: login and files at once, the pages as soon as they are loaded.

Loading NiceGUI takes longer than a server may take to be healthy, so it happens in a thread after
the API serves; who comes earlier gets a page that asks again by itself.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import re
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyagentos.web.door import Door, plain_page
from tinyagentos.web.look import FILES, OWN_FILES, STATIC
from tinyagentos.web.services import Services

_log = logging.getLogger(__name__)
# Nothing may come from anywhere but this server. Vue compiles templates, hence the eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Who waits for the server to be healthy asks at once; loading would compete with the answer.
LOAD_AFTER = 0.3
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
STARTING = """<h1>taOS is starting</h1>
<p role="status">The pages are being loaded. This takes a few seconds.</p>"""
BROKEN = """<h1>The pages cannot be loaded</h1>
<p role="alert">Agents and the command line work. The server's log says why.</p>"""


class Pages(Protocol):
    """The module with the pages, imported late."""

    def create_pages(self, services: Services) -> AbstractAsyncContextManager[ASGIApp]: ...


class Entrance:
    """An ASGI application of files, login and, once they are loaded, the pages."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pages: ASGIApp | None = None
        self._failed = False
        door = Door(services)
        self._own = Starlette(
            routes=[
                Route("/login", door.login, methods=["GET", "POST"]),
                Route("/setup", door.setup, methods=["GET", "POST"]),
                Route("/logout", door.logout, methods=["POST"]),
                Mount(STATIC, StaticFiles(directory=FILES)),
                Mount(OWN_FILES, Response(status_code=404)),  # else a whole page would say so
                Route("/favicon.ico", door.icon),
                Route("/images/weights/{fingerprint}.svg", self._picture),
                Mount("/", self._inner),
            ]
        )

    async def run(self) -> None:
        """Load the pages and keep them going until this is cancelled."""
        await asyncio.sleep(LOAD_AFTER)
        try:
            module: Pages = await asyncio.to_thread(
                importlib.import_module,
                "tinyagentos.web.app",
            )
            async with module.create_pages(self._services) as pages:
                self._pages = pages
                # What is loaded stays: looking through it again and again for garbage would make
                # a request in a hundred wait for 60 ms.
                gc.freeze()
                _log.info("web pages loaded")
                await asyncio.Event().wait()
        except Exception:
            self._failed = True
            _log.exception("web pages not loaded")
        finally:
            self._pages = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._own(scope, receive, with_headers)

    async def _picture(self, request: Request) -> Response:
        """The picture of an image's weight."""
        fingerprint = request.path_params["fingerprint"]
        is_one = FINGERPRINT.fullmatch(fingerprint)
        weight = self._services.images.find_weight(fingerprint) if is_one else None
        if weight is None:
            return Response(status_code=404)
        return FileResponse(weight.picture, media_type="image/svg+xml")

    async def _inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._pages:
            await self._pages(scope, receive, send)
            return
        is_page = "text/html" in Headers(scope=scope).get("accept", "")
        body = BROKEN if self._failed else STARTING
        response = (
            plain_page("taOS", body, status=503, again=not self._failed)
            if is_page
            else Response(status_code=503, headers={"Retry-After": "1"})
        )
        await response(scope, receive, send)
