"""How large a request may be: our bodies are a few hundred bytes."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyagentos.api.errors import answer
from tinyagentos.model.job import Problem

MOST_BYTES = 64 * 1024


class BodyLimit:
    """Reads the body of a request up to the limit, and answers 413 beyond it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if len(body) > MOST_BYTES:
                problem = Problem("invalid_input", "The body is too large.", "Send less.")
                await answer(problem, 413)(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def again() -> Message:
            nonlocal whole
            message, whole = whole, None
            return message or await receive()

        await self._app(scope, again, send)
