"""A channel's web server that does as it is told: cuts, stalls, lies, refuses, forgets ranges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web


@dataclass
class Mirror:
    """Serves files. `answers` are used up first, one for each request of an image's file."""

    files: dict[str, bytes]
    answers: list[Callable[[web.Request, bytes], web.StreamResponse | None]] = field(
        default_factory=list
    )
    ranges: bool = True
    cut_after: int | None = None
    stall_after: int | None = None
    stalls: int = 1
    rate: int = 0
    spoil: Callable[[bytes], bytes] | None = None
    status: int = 0
    said_more: int = 0
    sent: int = 0
    requests: list[str] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        """Serve."""
        app = web.Application()
        app.router.add_get("/{name}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.requests.append(f"{name} {request.headers.get('Range', '')}")
        if self.status:
            return web.Response(status=self.status)
        content = self.files.get(name)
        if content is None:
            return web.Response(status=404)
        start, partial = 0, self.ranges and "Range" in request.headers
        if partial:
            start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        response = web.StreamResponse(status=206 if partial else 200)
        if partial:
            total = len(content) + self.said_more
            response.headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        body = self.spoil(content) if self.spoil else content
        body = body[start:]
        response.content_length = len(body)
        await response.prepare(request)
        at = 0
        while at < len(body):
            size = max(512, min(1 << 16, self.rate // 20)) if self.rate else 1 << 16
            piece = body[at : at + size]
            at += size
            if self.cut_after is not None and self.sent + len(piece) > self.cut_after:
                self.cut_after = None
                await asyncio.sleep(0.05)  # what was sent is to arrive
                assert request.transport
                request.transport.abort()
                return response
            if self.stall_after is not None and self.sent >= self.stall_after:
                self.stalls -= 1
                if not self.stalls:
                    self.stall_after = None
                await asyncio.sleep(3600)
            if self.rate:
                await asyncio.sleep(len(piece) / self.rate)
            await response.write(piece)
            self.sent += len(piece)
        return response
