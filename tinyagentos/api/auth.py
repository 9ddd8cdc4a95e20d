"""Who may call: whoever has the token, or can open the server's Unix socket.

The socket is marked by the server itself: uvicorn puts the listening socket's name in the ASGI
scope's `server`, which for a Unix socket is its path and no port. A caller cannot choose it.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tinyagentos.api.errors import answer
from tinyagentos.model.job import Problem

OPEN_PATHS = frozenset({"/api/health"})
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


class Guard:
    """Lets a request through, or answers 401; over TCP only for host names that are ours.

    A web page of somebody else whose name resolves to 127.0.0.1 (DNS rebinding) sends its own
    name as Host, and is refused.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = LOCAL_HOSTS | {host.lower()}
        self._any_host = host in ANY_ADDRESS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif problem := self._refuse(scope):
            await answer(problem)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Scope) -> Problem | None:
        server = scope.get("server")
        if server and server[1] is None:
            return None
        headers = Headers(scope=scope)
        if not self._any_host and bare_host(headers.get("host", "")) not in self._hosts:
            return Problem(
                "unauthorized", "This server does not answer under that host name.",
                "Use 127.0.0.1, or set `host` to the address you use.",
            )  # fmt: skip
        if scope["path"] in OPEN_PATHS:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return None
        return Problem(
            "unauthorized", "This needs the server's token.",
            "Send `Authorization: Bearer TOKEN`; the token is in the file `token` of data_dir.",
        )  # fmt: skip


def bare_host(header: str) -> str:
    """The host of a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()
