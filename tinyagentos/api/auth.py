"""Who may call: whoever has the token or a session, or can open the server's Unix socket.

The socket is marked by the server itself: uvicorn puts the listening socket's name in the ASGI
scope's `server`, which for a Unix socket is its path and no port. A caller cannot choose it.

A session comes by cookie, which browsers send for anybody's page: so whatever could change
something, and every WebSocket, must also come from our own pages.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Protocol
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tinyagentos.access import COOKIE, digest
from tinyagentos.api.errors import answer
from tinyagentos.api.hosts import HostNames, other_name_page
from tinyagentos.api.sockets import web_address
from tinyagentos.model.job import Problem

OPEN_PATHS = frozenset({"/api/health", "/login", "/setup", "/favicon.ico"})
# The files that the login needs, the same for everybody.
OPEN_FOLDERS = ("/_taos/",)
# What only an open page asks for: to everybody else it is not there.
OF_PAGES = ("/_nicegui/", "/_nicegui_ws/")
# The password can be set, codes be made and files of this machine be named with the token or on
# the machine only.
NOT_BY_SESSION = ("/api/web/", "/api/images/file/", "/api/files/")
# Where the scope of a request says by which session it was let in (the session's hash).
SESSION = "taos.session"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Sessions(Protocol):
    """Who knows the sessions."""

    def is_session(self, token: str) -> bool: ...


class Guard:
    """Lets a request through, or answers 401 or 403; over TCP only for host names that are ours.

    A person without a session is led to the login page, one who used another name is told so.
    """

    def __init__(self, app: ASGIApp, token: str, names: HostNames, sessions: Sessions) -> None:
        self._app = app
        self._token = token.encode()
        self._names = names
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif problem := self._refuse(scope):
            if problem is NEEDS_TOKEN and _is_page(scope):
                query = scope["query_string"].decode("latin-1")
                wanted = quote(scope["path"], safe="/") + (f"?{query}" if query else "")
                where = f"/login?next={quote(wanted, safe='/')}" if wanted != "/" else "/login"
                await RedirectResponse(where, 303)(scope, receive, send)
            elif problem is OTHER_NAME and _is_page(scope):
                page = other_name_page(Headers(scope=scope).get("host", ""), _address(scope))
                await page(scope, receive, send)
            else:
                status = 403 if problem is FOREIGN else 0
                await answer(problem, status)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Scope) -> Problem | None:
        server = scope.get("server")
        if server and server[1] is None:
            return None
        headers = Headers(scope=scope)
        if not self._names.accept(headers.get("host", "")):
            return OTHER_NAME
        path = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
        if is_open and _changes_nothing(scope):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return None
        session = session_of(headers)
        if is_open or self._sessions.is_session(session):
            if path.startswith(NOT_BY_SESSION):
                return NEEDS_TOKEN
            if not (_changes_nothing(scope) or is_own_page(headers)):
                return FOREIGN
            if not is_open:
                scope[SESSION] = digest(session)  # what goes on for long ends with it
            return None
        return NOT_THERE if path.startswith(OF_PAGES) else NEEDS_TOKEN


NOT_THERE = Problem("not_found", "There is nothing here.", "The pages begin at `/`.")
OTHER_NAME = Problem(
    "unauthorized", "This server does not answer under that host name.",
    "Use its address, or add the name to the setting `names`.",
)  # fmt: skip
NEEDS_TOKEN = Problem(
    "unauthorized", "This needs the server's token.",
    "Send `Authorization: Bearer TOKEN`; the token is in the file `token` of data_dir.",
)  # fmt: skip
FOREIGN = Problem(
    "unauthorized", "This request did not come from taOS's own pages.",
    "Open the web interface at the server's own address.",
)  # fmt: skip


def session_of(headers: Headers) -> str:
    """The session's token in the cookies, empty when there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def is_own_page(headers: Headers) -> bool:
    """Whether a page of this very server made the request, by what the browser says of it.

    Every browser sends Origin with a WebSocket and with each request that can change something;
    Sec-Fetch-Site says the same where it is sent (only over HTTPS and to this machine itself).
    """
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:  # such as an address with half of its brackets
        return False


def _address(scope: Scope) -> str:
    """Where the request came in, as a browser takes it."""
    host, port = scope["server"] or ("127.0.0.1", 0)
    return web_address(host, port, tls=scope["scheme"] in ("https", "wss"))


def _changes_nothing(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in SAFE


def _is_page(scope: Scope) -> bool:
    """Whether a person looks for a page."""
    path = scope["path"]
    return (
        _changes_nothing(scope)
        and not path.startswith(("/api", "/metrics"))
        and "text/html" in Headers(scope=scope).get("accept", "")
    )
