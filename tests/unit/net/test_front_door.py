"""The front door over real sockets: deadlines, room, files, and who is never closed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.unit.api.test_serve import make_certificate
from tinyagentos.net import accept
from tinyagentos.net.accept import BACKLOG, Acceptor
from tinyagentos.net.connections import Connection, Connections
from tinyagentos.net.limits import HEARD_WITHIN, Limits

WITHIN = 10
HEAD = b"GET / HTTP/1.1\r\n\r\n"


class Talk(asyncio.Protocol):
    """Answers `a whole request` with its words, and `much` with more than anybody takes at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if not self._heard.endswith(b"\r\n\r\n"):
            return
        self._connection.answering()
        if b"much" in self._heard:
            self._transport.write(b"x" * 20_000_000)
        elif b"stay" not in self._heard:
            self._transport.write(b"answer")
            self._connection.idle()
        self._heard = b""


class World:
    """A listener, and what is connected to it."""

    def __init__(self, limits: Limits, port: int) -> None:
        self.connections = Connections("a test", limits)
        self.port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, say: bytes = b"", host: str = "127.0.0.1") -> asyncio.StreamReader:
        reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(host, 0)
        )
        self._writers.append(self.writer)  # one that nobody holds closes its connection
        self.writer.write(say)
        await asyncio.sleep(0.01)
        return reader

    async def count(self, number: int) -> None:
        async with asyncio.timeout(WITHIN):
            while len(self.connections) != number:
                await asyncio.sleep(0.01)


Serve = Callable[..., contextlib.AbstractAsyncContextManager[World]]


@pytest.fixture
async def serve() -> Serve:
    @contextlib.asynccontextmanager
    async def serving(limits: Limits, tls: ssl.SSLContext | None = None) -> AsyncIterator[World]:
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
            world = World(limits, listener.getsockname()[1])
            acceptor = Acceptor(listener, Talk, world.connections, tls=tls)
            acceptor.start()
            try:
                yield world
            finally:
                acceptor.stop()
                world.connections.close()

    return serving


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether it is closed in time."""
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), WITHIN)
    return True


def is_open(reader: asyncio.StreamReader) -> bool:
    return not reader.at_eof() and reader.exception() is None


async def test_one_that_is_not_whole_in_time_is_closed_however_it_trickles(serve: Serve) -> None:
    async with serve(Limits(request_within=0.5)) as world:
        silent, trickling = await world.open(), await world.open(b"G")
        begun = asyncio.get_running_loop().time()

        async def trickle() -> None:
            while True:
                world.writer.write(b"x")
                await asyncio.sleep(0.05)

        going = asyncio.create_task(trickle())
        assert await closed(silent)
        assert await closed(trickling)
        assert 0.4 < asyncio.get_running_loop().time() - begun < 2
        going.cancel()
        await world.count(0)


async def test_one_that_is_answered_lasts_and_one_that_was_does_not(serve: Serve) -> None:
    async with serve(Limits(request_within=0.3)) as world:
        lasting = await world.open(b"stay\r\n\r\n")
        done = await world.open(HEAD)
        assert await done.readexactly(6) == b"answer"
        world.writer.write(HEAD)
        assert await done.readexactly(6) == b"answer"
        assert await closed(done)
        await asyncio.sleep(0.5)
        assert is_open(lasting)
        await world.count(1)


async def test_one_that_takes_nothing_of_its_answer_is_closed(serve: Serve) -> None:
    async with serve(Limits(take_within=0.5)) as world:
        with socket.create_connection(("127.0.0.1", world.port)) as raw:
            raw.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(raw, b"much\r\n\r\n")
            await world.count(1)
            await world.count(0)


async def test_one_that_takes_its_answer_slowly_gets_all_of_it(serve: Serve) -> None:
    async with serve(Limits(take_within=0.5, request_within=0.5)) as world:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", world.port)) as raw:
            raw.setblocking(False)
            await loop.sock_sendall(raw, b"much\r\n\r\n")
            left = 20_000_000
            while left:
                left -= len(await loop.sock_recv(raw, 1_000_000))
                await asyncio.sleep(0.02)


async def test_who_is_there_already_stays_and_a_silent_one_makes_room(serve: Serve) -> None:
    async with serve(Limits(connections=4, connections_each=3)) as world:
        busy = await world.open(b"stay\r\n\r\n")
        silent = await world.open()
        assert len(world.connections) == 2  # half of four are one caller's
        await asyncio.sleep(2 * HEARD_WITHIN)
        third = await world.open()
        assert await closed(silent)
        assert is_open(busy)
        other = await world.open(host="127.1.0.2")
        assert is_open(third)
        assert is_open(other)
        fourth = await world.open(b"stay\r\n\r\n", host="127.1.0.3")
        await asyncio.sleep(2 * HEARD_WITHIN)
        fifth = await world.open(HEAD, host="127.1.0.4")
        assert await fifth.readexactly(6) == b"answer"
        assert is_open(fourth)
        assert is_open(busy)
        assert len(world.connections) == 4


async def test_when_all_are_answered_the_next_is_turned_away(serve: Serve) -> None:
    async with serve(Limits(connections=2)) as world:
        held = [await world.open(b"stay\r\n\r\n", host=f"127.1.0.{one}") for one in (1, 2)]
        assert await closed(await world.open(HEAD, host="127.1.0.3"))
        assert all(is_open(one) for one in held)


async def test_in_a_flood_who_has_asked_gets_in(serve: Serve) -> None:
    async with serve(Limits(connections=8)) as world:
        answered = 0
        for number in range(300):
            host = f"127.1.{number // 200}.{1 + number % 200}"
            await world.open(b"half", host)
            if number % 30 == 29:
                with socket.create_connection(("127.0.0.1", world.port)) as raw:
                    raw.setblocking(False)
                    raw.send(HEAD)
                    said = await asyncio.get_running_loop().sock_recv(raw, 100)
                    answered += said == b"answer"
        assert answered == 10
        assert len(world.connections) <= 8


async def test_a_handshake_that_is_not_ended_is_not_waited_for(
    serve: Serve, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=str(cert))
    async with serve(Limits(request_within=0.5), server) as world:
        for said in (b"", b"\x16\x03\x01", b"GET / HTTP/1.0\r\n\r\n"):
            assert await closed(await world.open(said))
        await world.count(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=client)
        writer.write(HEAD)
        assert await reader.readexactly(6) == b"answer"
        assert await closed(reader)
        writer.close()
        await world.count(0)


async def test_a_full_handshake_queue_makes_room_too(serve: Serve, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=str(cert))
    async with serve(Limits(connections=4), server) as world:
        for number in range(1, 20):
            await world.open(host=f"127.1.0.{number}")
        assert len(world.connections) == 4
        await asyncio.sleep(2 * HEARD_WITHIN)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=client)
        writer.write(HEAD)
        assert await reader.readexactly(6) == b"answer"
        writer.close()


async def test_without_a_file_it_waits_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    accepted = 0

    class Full(socket.socket):
        """A listener of a process that has no file left."""

        def accept(self) -> tuple[socket.socket, object]:
            nonlocal accepted
            accepted += 1
            raise OSError(errno.EMFILE, "Too many open files")

    with Full(socket.AF_INET, socket.SOCK_STREAM) as listener, caplog.at_level(logging.WARNING):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        acceptor = Acceptor(listener, Talk, Connections("a test", Limits()))
        acceptor.start()
        with socket.create_connection(listener.getsockname()):
            await asyncio.sleep(2.5 * accept.PAUSE)
        acceptor.stop()
    assert 2 <= accepted <= 4
    assert len(caplog.records) == 1
    assert "Too many open files" in caplog.text


async def test_a_full_listener_is_said_once_a_minute_with_who_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    connections = Connections("a test", Limits(connections=1), lambda: now)

    def silent() -> bool:
        return True

    for _ in range(100):
        connections.admit("10.0.0.7", silent)
    assert len(caplog.records) == 1
    now = 61.0
    connections.admit("10.0.0.7", silent)
    assert "99 of them from 10.0.0.7" in caplog.text
    assert len(caplog.records) == 2
    connections.close()


async def test_a_closed_file_is_counted_no_more(serve: Serve) -> None:
    async with serve(Limits()) as world:
        for _ in range(20):
            await world.open(HEAD)
            world.writer.close()
        await world.count(0)
        assert not world.connections._callers
        assert not world.connections._waiting
