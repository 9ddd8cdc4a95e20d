"""The HTTP client that providers are asked with."""

from __future__ import annotations

import errno
import socket

import aiohttp
from aiohttp.connector import AddrInfoType

from tinyagentos.model.provider import is_closed


class ClosedAddress(OSError):
    """The name of a provider leads to an address where no provider can be."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"{address} is no address of a provider")
        self.address = address


def open_socket(info: AddrInfoType) -> socket.socket:
    """A socket for the address that is about to be connected to; ClosedAddress for some.

    Asked for each address after its name was resolved, so a name that leads elsewhere the second
    time is seen as well.
    """
    family, kind, protocol, _, address = info
    if is_closed(str(address[0])):
        raise ClosedAddress(str(address[0]))
    return socket.socket(family, kind, protocol)


def closed_address(error: BaseException) -> str:
    """The address because of which a provider was not asked; empty for any other error."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return cause.address if isinstance(cause, ClosedAddress) else ""


class LazySession:
    """One session for the whole server, made when something is first asked."""

    def __init__(self, resolver: aiohttp.abc.AbstractResolver | None = None) -> None:
        """resolver: else the system's."""
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        """The session; only within a running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # As many as there are questions, which the gateway bounds: a bound here would let
                # some agents keep all others waiting.
                connector=aiohttp.TCPConnector(
                    limit=0, resolver=self._resolver, socket_factory=open_socket
                ),
                # What a provider sets is nothing that another agent's question may carry back.
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """End every connection."""
        if self._session:
            await self._session.close()
