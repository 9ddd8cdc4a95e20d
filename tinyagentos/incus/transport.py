"""HTTP and WebSockets to one Incus daemon; every exchange has a deadline or a stall limit."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from tinyagentos.incus.errors import Forbidden, IncusUnreachable, error_of
from tinyagentos.incus.parse import Object, decode, integer, text

Texts = Mapping[str, str]
Connect = Callable[[], Awaitable[aiohttp.BaseConnector]]
NONE: Texts = {}
CHUNK = 1 << 20
CLOSE_WITHIN = 0.2  # we need nothing that a peer says after we close


@dataclass(frozen=True)
class Reply:
    """A successful answer: its JSON envelope and the headers somebody cares about."""

    envelope: Object
    headers: Texts

    @property
    def metadata(self) -> object:
        """What was asked for."""
        return self.envelope.get("metadata")

    @property
    def etag(self) -> str:
        """What to send as If-Match to change only this version."""
        return self.headers.get("etag", "")


class Download:
    """An answer that is still arriving."""

    def __init__(self, base: str, response: aiohttp.ClientResponse) -> None:
        self.headers: Texts = _headers(response)
        self._base = base
        self._response = response

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive; IncusUnreachable when they stop."""
        with _unreachable(self._base, f"{self._response.url.path} stopped arriving"):
            async for chunk in self._response.content.iter_chunked(CHUNK):
                yield chunk

    async def read(self) -> bytes:
        """All of the bytes."""
        return b"".join([chunk async for chunk in self.chunks()])


class Transport:
    """The connection to a daemon. Making one does no I/O; the session opens at first use."""

    def __init__(self, base: str, connect: Connect, *, within: float, stall: float) -> None:
        self.base = base
        self.within = within
        self.stall = stall
        self._connect = connect
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close the session; a later call opens a new one."""
        if self._session:
            await self._session.close()
        self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Texts = NONE,
        headers: Texts = NONE,
        body: Object | bytes | None = None,
        within: float | None = None,
    ) -> Reply:
        """Incus's answer; IncusUnreachable when there is none within the deadline."""
        limit = self.within if within is None else within
        data, headers = _payload(body, headers)
        with _unreachable(self.base, f"did not answer {method} {path} within {limit:g} s"):
            async with asyncio.timeout(limit):
                session = await self._open()
                async with session.request(
                    method, self._url(path, query), headers=headers, data=data
                ) as response:
                    return await _read_reply(response)

    async def upload(
        self,
        method: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        query: Texts = NONE,
        headers: Texts = NONE,
        stall: float | None = None,
    ) -> Reply:
        """Incus's answer to a big body; IncusUnreachable when no bytes moved for `stall` seconds.

        What the chunks raise is raised as it is.
        """
        limit = self.stall if stall is None else stall
        broken: list[Exception] = []
        try:
            with _unreachable(self.base, f"{method} {path} moved no bytes for {limit:g} s"):
                async with asyncio.timeout(limit) as timer:

                    async def body() -> AsyncIterator[bytes]:
                        try:
                            async for chunk in chunks:
                                yield chunk
                                # Incus may have answered (an error) before all was sent.
                                with contextlib.suppress(RuntimeError):
                                    timer.reschedule(asyncio.get_running_loop().time() + limit)
                        except Exception as error:
                            broken.append(error)
                            raise

                    session = await self._open()
                    async with session.request(
                        method, self._url(path, query), headers=dict(headers), data=body()
                    ) as response:
                        return await _read_reply(response)
        except IncusUnreachable as error:
            # aiohttp makes a connection error of whatever the source of the bytes raised.
            if broken:
                raise broken[0] from error
            raise

    @asynccontextmanager
    async def download(
        self, path: str, *, query: Texts = NONE, stall: float | None = None
    ) -> AsyncIterator[Download]:
        """The open answer to a GET, to be read in chunks."""
        limit = self.stall if stall is None else stall
        with _unreachable(self.base, f"GET {path} moved no bytes for {limit:g} s"):
            async with asyncio.timeout(limit):
                session = await self._open()
                response = await session.get(
                    self._url(path, query), timeout=aiohttp.ClientTimeout(sock_read=limit)
                )
        async with response:
            if response.status >= 400:
                await _read_reply(response)
            yield Download(self.base, response)

    @asynccontextmanager
    async def websocket(
        self,
        path: str,
        *,
        query: Texts = NONE,
        heartbeat: float | None = None,
        autoping: bool = True,
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """An open WebSocket. autoping: whether pings are answered without the caller."""
        with _unreachable(self.base, f"did not open {path} within {self.within:g} s"):
            async with asyncio.timeout(self.within):
                session = await self._open()
                try:
                    socket = await session.ws_connect(
                        self._url(path, query),
                        heartbeat=heartbeat,
                        autoping=autoping,
                        max_msg_size=0,
                        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_WITHIN),
                    )
                except aiohttp.WSServerHandshakeError as error:
                    raise error_of(f"{error.message} ({path})", error.status) from error
        async with socket:
            yield socket

    def _url(self, path: str, query: Texts) -> URL:
        # The path is quoted already: an alias may hold slashes.
        return URL(self.base + path, encoded=True).update_query(query)

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None or self._session.closed:
                self._session = aiohttp.ClientSession(
                    connector=await self._connect(), timeout=aiohttp.ClientTimeout(total=None)
                )
            return self._session


def unix_connector(socket_path: str | Path) -> Connect:
    """Connections to Incus's Unix socket."""

    async def connect() -> aiohttp.BaseConnector:
        # A kept connection is dead after a daemon restart; a new one costs microseconds.
        return aiohttp.UnixConnector(str(socket_path), limit=0, force_close=True)

    return connect


def tls_connector(
    url: str, cert: Path, key: Path, *, server_cert: Path | None, fingerprint: str
) -> Connect:
    """Connections with a client certificate to exactly the server whose certificate is pinned."""

    async def connect() -> aiohttp.BaseConnector:
        if server_cert:
            pinned: str | bytes = await asyncio.to_thread(server_cert.read_text)
        else:
            pinned = await _fetch_certificate(url, fingerprint)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the certificate itself is pinned
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=pinned)
        context.load_cert_chain(cert, key)
        return aiohttp.TCPConnector(ssl=context, limit=0, force_close=True)

    return connect


async def _fetch_certificate(url: str, fingerprint: str) -> bytes:
    """The server's certificate if it has the fingerprint; Forbidden when it is another."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only to look: nothing is sent over this connection
    _, writer = await asyncio.open_connection(parts.hostname, parts.port or 8443, ssl=context)
    try:
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    found = hashlib.sha256(certificate).hexdigest()
    if found != fingerprint.lower().replace(":", ""):
        raise Forbidden(f"{url} has the certificate {found[:12]}, {fingerprint[:12]} is pinned")
    return certificate


def _payload(body: Object | bytes | None, headers: Texts) -> tuple[bytes | None, dict[str, str]]:
    if body is None or isinstance(body, bytes):
        return body, dict(headers)
    return json.dumps(dict(body)).encode(), {"Content-Type": "application/json", **headers}


async def _read_reply(response: aiohttp.ClientResponse) -> Reply:
    envelope = decode(await response.read())
    if response.status >= 400 or text(envelope, "type") == "error":
        sentence = text(envelope, "error") or f"{response.method} answered {response.status}"
        # A failed operation's /wait answers with HTTP status 200 and an error inside.
        code = response.status if response.status >= 400 else integer(envelope, "error_code")
        raise error_of(sentence, code)
    return Reply(envelope, _headers(response))


def _headers(response: aiohttp.ClientResponse) -> Texts:
    return {name.lower(): value for name, value in response.headers.items()}


@contextmanager
def _unreachable(base: str, hung: str) -> Iterator[None]:
    """Turn what aiohttp and the system raise into IncusUnreachable."""
    try:
        yield
    except TimeoutError as error:
        raise IncusUnreachable(f"Incus at {base}: {hung}") from error
    except ssl.SSLCertVerificationError as error:
        raise Forbidden(f"Incus at {base} is not the pinned server: {error}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise IncusUnreachable(f"Incus at {base}: {error or type(error).__name__}") from error
