"""The API and the web pages on one address."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

API_PATHS = ("/api", "/metrics")
INTERFACE = re.compile(r"/agents/[^/]+/ui(/.*)?")


class BesidePages:
    """Sends a request to the pages unless its path is the API's."""

    def __init__(self, app: ASGIApp, pages: ASGIApp) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = scope.get("path", "")
        is_api = scope["type"] == "lifespan" or any(
            path == one or path.startswith(f"{one}/") for one in API_PATHS
        )
        is_api = is_api or INTERFACE.fullmatch(path) is not None
        await (self._app if is_api else self._pages)(scope, receive, send)
