"""The HTTP client that providers are asked with."""

from __future__ import annotations

import aiohttp


class LazySession:
    """One session for the whole server, made when something is first asked."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        """The session; only within a running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # As many as there are questions, which the gateway bounds: a bound here would let
                # some agents keep all others waiting.
                connector=aiohttp.TCPConnector(limit=0),
                # What a provider sets is nothing that another agent's question may carry back.
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """End every connection."""
        if self._session:
            await self._session.close()
