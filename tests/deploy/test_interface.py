"""An agent's own web interface on its own port: what passes, who gets in, what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.access import COOKIE
from tinyagentos.api import interface as module
from tinyagentos.api.interface import Interfaces, policies
from tinyagentos.api.ports import Ports
from tinyagentos.gateway.tokens import agent_token
from tinyagentos.model.errors import Conflict, NotFound
from tinyagentos.net.limits import HEARD_WITHIN

# What an agent may answer by path, instead of HTTP as it should be.
BROKEN = {
    "/broken/garbage": b"\x00\xff" * 99,
    "/broken/nothing": b"",
    "/broken/status": b"HTTP/1.1 999 x\r\nContent-Length: 1\r\n\r\nx",
    "/broken/switch": b"HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "/broken/header": b"HTTP/1.1 200 x\r\nX: " + b"x" * 99_999 + b"\r\n\r\n",
    "/broken/half": b"HTTP/1.1 200 x\r\nContent-Length: 99\r\n\r\nhalf",
    "/broken/chunk": b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz",
}
SESSION, TOKEN = "session-of-a-person", "token-of-the-api"


@dataclass
class World:
    """A deployed agent `one` with pages, and what leads to them."""

    taos: Taos
    interfaces: Interfaces
    sessions: set[str]
    heard: list[web.Request] = field(default_factory=list)
    address: str = ""
    http: aiohttp.ClientSession = field(init=False)

    @property
    def origin(self) -> str:
        return self.address.rstrip("/")


@pytest.fixture
async def world(folder: Path, fake: FakeIncus) -> AsyncIterator[World]:
    with_image(fake)
    taos = Taos(folder, fake).start()
    sessions = {SESSION}
    made = World(taos, Interfaces(taos.host, sessions.__contains__, TOKEN), sessions)

    async def page(request: web.Request, _: str) -> web.StreamResponse:
        if request.path == "/readyz":
            return web.Response(text="ready")
        made.heard.append(request)
        if request.path == "/ws":
            return await echo(request)
        if request.path == "/slow":
            stream = web.StreamResponse()
            await stream.prepare(request)
            for piece in (b"one", b"two"):
                await stream.write(piece)
                await asyncio.sleep(0.2)
            return stream
        if request.path == "/for-ever":
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            while True:
                await stream.write(b": here\n\n")
                await asyncio.sleep(0.05)
        if request.path.startswith("/broken"):
            assert request.transport
            request.transport.write(BROKEN[request.path])  # type: ignore[attr-defined]
            await asyncio.sleep(0.1)
            request.transport.close()
        said = (await request.read()).decode()
        return web.Response(
            text=f"{request.method} {request.path_qs} {said}",
            headers={
                "Set-Cookie": f"{COOKIE}=stolen",
                "X-Frame-Options": "ALLOWALL",
                "X-Own": "1",
                "Clear-Site-Data": '"cookies"',
                "NEL": "{}",
                "Report-To": "{}",
                "Content-Security-Policy": (
                    "img-src 'none'; Report-URI http://192.168.1.1/, font-src 'self'; report-to x"
                ),
                "Content-Security-Policy-Report-Only": "report-uri http://192.168.1.1/",
            },
        )

    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("claw",))
        await socket.prepare(request)
        async for message in socket:
            if message.data == "leave":
                await socket.close(code=4005)
            elif message.type is WSMsgType.TEXT:
                await socket.send_str(message.data.upper())
            else:
                await socket.send_bytes(message.data[::-1])
        return socket

    fake.answer = page
    await taos.deploy("one")
    where = await made.interfaces.open("one", "127.0.0.1:8420")
    made.address = where.partition("#")[0]
    async with aiohttp.ClientSession(cookies={COOKIE: SESSION, "other": "x"}) as made.http:
        # aiohttp keeps cookies of addresses apart only when it is told to take them at all.
        made.http._cookie_jar = aiohttp.CookieJar(unsafe=True)
        made.http.cookie_jar.update_cookies({COOKIE: SESSION, "other": "x"})
        yield made
    await made.interfaces.close()
    await taos.close()


async def test_where_it_is_and_with_what(world: World) -> None:
    again = urlsplit(await world.interfaces.open("one", "box.example:8420"))
    assert (again.hostname, again.port) == ("box.example", urlsplit(world.address).port)
    instance = (await world.taos.agents.get_agent("one")).instance
    assert again.fragment == f"token={agent_token(world.taos.host.key, instance)}"
    with pytest.raises(NotFound):
        await world.interfaces.open("nobody", "localhost")
    job = await world.taos.agents.start_power("one", "stop")
    await world.taos.runner.wait_job(job.id)
    with pytest.raises(Conflict):
        await world.interfaces.open("one", "localhost")


async def test_requests_pass_without_anything_of_taos(world: World) -> None:
    headers = {
        "Origin": world.origin, "Referer": world.address, "X-Forwarded-For": "1.2.3.4",
        "Authorization": "Bearer agents-own", "X-Kept": "yes",
    }  # fmt: skip
    async with world.http.post(f"{world.address}a/b?c=d", data="hi", headers=headers) as answer:
        assert await answer.text() == "POST /a/b?c=d hi"
        assert "Set-Cookie" not in answer.headers
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Own"] == "1"
    [heard] = world.heard
    assert heard.headers["Host"] == "127.0.0.1:18789"
    assert heard.headers["Origin"] == "http://127.0.0.1:18789"
    assert heard.headers["Authorization"] == "Bearer agents-own"
    assert heard.headers["X-Kept"] == "yes"
    assert not {"Cookie", "Referer", "X-Forwarded-For"} & set(heard.headers)


async def test_the_apis_token_is_not_passed_on(world: World) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with world.http.get(world.address, headers=headers) as answer:
        assert answer.status == 200
    assert "Authorization" not in world.heard[0].headers


async def test_an_answer_is_passed_on_as_it_comes(world: World) -> None:
    async with world.http.get(f"{world.address}slow") as answer:
        assert await answer.content.readany() == b"one"
        assert await answer.content.readany() == b"two"


async def test_what_its_pages_may(world: World) -> None:
    async with world.http.get(world.address) as answer:
        first, second, ours = answer.headers.getall("Content-Security-Policy")
        leaks = {"Clear-Site-Data", "NEL", "Report-To", "Content-Security-Policy-Report-Only"}
        assert not leaks & set(answer.headers)
    assert (first, second.strip()) == ("img-src 'none'", "font-src 'self'")
    told = dict(one.strip().split(" ", 1) for one in ours.split(";"))
    host = urlsplit(world.address).netloc
    assert told["connect-src"] == f"'self' data: blob: ws://{host} wss://{host}"
    assert told["default-src"] == "'self' data: blob:"
    assert told["form-action"] == told["frame-ancestors"] == told["base-uri"] == "'self'"
    assert "http" not in ours.replace(host, "")


@pytest.mark.parametrize("host", ["a;b", "x y", "", "a' https:", "[::1]:8420", "a,b:80"])
def test_a_host_name_says_nothing_in_a_policy(host: str) -> None:
    [ours] = policies((), host)
    assert "connect-src 'self' data: blob:;" in ours
    assert "," not in ours


@pytest.mark.parametrize("path", BROKEN)
async def test_a_broken_answer_is_a_sentence_or_is_cut_off(world: World, path: str) -> None:
    try:
        async with world.http.get(f"{world.origin}{path}") as answer:
            said = await answer.text()
    except aiohttp.ClientError:
        # It had begun: no second answer comes after it.
        assert path in ("/broken/half", "/broken/chunk")
    else:
        assert answer.status == 502
        assert said.endswith(".\n")
    async with world.http.get(world.address) as answer:
        assert answer.status == 200


async def test_a_websocket_both_ways_with_its_protocol_and_close_code(world: World) -> None:
    async with world.http.ws_connect(
        f"{world.address}ws", origin=world.origin, protocols=("claw",)
    ) as socket:
        assert socket.protocol == "claw"
        await socket.send_str("hello")
        assert (await socket.receive_str()) == "HELLO"
        await socket.send_bytes(b"abc")
        assert (await socket.receive_bytes()) == b"cba"
        await socket.send_str("leave")
        await asyncio.wait_for(socket.receive(), 5)
        assert socket.close_code == 4005
    assert "Cookie" not in world.heard[0].headers


FOREIGN = ["http://evil.test", "http://127.0.0.1:8420", "null", ""]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_other_pages_get_neither_a_socket_nor_a_change(world: World, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await world.http.ws_connect(f"{world.address}ws", headers={"Origin": origin})
    assert refused.value.status == 403
    for method in ("POST", "PUT", "DELETE"):
        async with world.http.request(method, world.address, headers={"Origin": origin}) as answer:
            assert answer.status == 403
    assert world.heard == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_pages_may_lead_here_but_not_read(world: World, site: str) -> None:
    told = {"Sec-Fetch-Site": site}
    async with world.http.get(world.address, headers=told | {"Sec-Fetch-Mode": "cors"}) as answer:
        assert answer.status == 403
    async with world.http.get(
        world.address, headers=told | {"Sec-Fetch-Mode": "navigate"}
    ) as answer:
        assert answer.status == 200


async def test_nobody_without_a_session_or_by_another_name(world: World) -> None:
    async with aiohttp.ClientSession() as stranger:
        for headers in ({}, {"Cookie": f"{COOKIE}=guess"}, {"Authorization": f"Bearer {TOKEN}"}):
            async with stranger.get(world.address, headers=headers) as answer:
                assert answer.status == 401
    async with world.http.get(world.address, headers={"Host": "evil.test"}) as answer:
        assert answer.status == 421
    assert world.heard == []


async def test_a_session_that_ends_closes_its_websockets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSION_EVERY", 0.05)
    async with world.http.ws_connect(f"{world.address}ws", origin=world.origin) as socket:
        await socket.send_str("hello")
        assert (await socket.receive_str()) == "HELLO"
        world.sessions.clear()
        await asyncio.wait_for(socket.receive(), 5)
        assert socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION


async def test_a_session_that_ends_ends_its_event_streams(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSION_EVERY", 0.05)
    async with world.http.get(f"{world.address}for-ever") as answer:
        assert await answer.content.readany()
        world.sessions.clear()
        async with asyncio.timeout(5):
            with pytest.raises(aiohttp.ClientError):
                await answer.read()


async def test_who_looks_at_its_pages_uses_it(world: World) -> None:
    instance = (await world.taos.agents.get_agent("one")).instance
    world.taos.host.uses._ended.clear()
    async with world.http.ws_connect(f"{world.address}ws", origin=world.origin) as socket:
        await socket.send_str("hello")
        await socket.receive_str()
        world.taos.later = timedelta(hours=5)
        last = world.taos.host.uses.last(instance)
        assert last
        assert last > datetime.now(UTC) + timedelta(hours=4)


async def test_an_agent_keeps_its_port_and_no_other_gets_it(world: World) -> None:
    async def port(interfaces: Interfaces, name: str) -> int:
        return urlsplit(await interfaces.open(name, "localhost")).port or 0

    first = await port(world.interfaces, "one")
    await world.taos.deploy("two")
    second = await port(world.interfaces, "two")
    await world.interfaces.close()
    # A server that starts anew.
    again = Interfaces(world.taos.host, world.sessions.__contains__, TOKEN)
    assert (await port(again, "two"), await port(again, "one")) == (second, first)
    await again.close()
    with socket_of(first):
        moved = await port(again, "one")
        assert moved not in (first, second)
    await again.close()
    assert await port(again, "one") == moved
    await again.close()


@contextlib.contextmanager
def socket_of(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_ports_are_kept_and_one_that_another_agent_had_is_known(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json")
    ports.keep("one", 1001)
    ports.keep("two", 1002)
    ports.keep("one", 1003)
    ports = Ports(tmp_path / "ports.json")
    assert (ports.of("one"), ports.of("two"), ports.of("three")) == (1003, 1002, 0)
    assert ports.is_anothers(1003, "two")
    assert ports.is_anothers(1001, "two")
    assert not ports.is_anothers(1001, "one")
    assert not ports.is_anothers(1003, "one")
    for broken in ("", "[]", "{", '{"a": "b"}', '"x"', "[[1, 2]]"):
        (tmp_path / "ports.json").write_text(broken)
        assert Ports(tmp_path / "ports.json").of("a") == 0


async def test_it_ends_at_once_with_websockets_open(world: World) -> None:
    async with world.http.ws_connect(f"{world.address}ws", origin=world.origin) as socket:
        await socket.send_str("hello")
        await socket.receive_str()
        async with asyncio.timeout(2):
            await world.interfaces.close()
    with pytest.raises(aiohttp.ClientConnectorError):
        await world.http.get(world.address)


async def test_an_agent_that_is_gone_is_said_and_its_listener_closed(world: World) -> None:
    job = await world.taos.agents.start_power("one", "stop")
    await world.taos.runner.wait_job(job.id)
    async with world.http.get(world.address) as answer:
        assert answer.status == 502
    await world.interfaces.tidy()
    with pytest.raises(aiohttp.ClientConnectorError):
        await world.http.get(world.address)


async def test_the_longest_unused_gives_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LISTENERS", 1)
    await world.taos.deploy("two")
    await world.interfaces.open("two", "localhost")
    with pytest.raises(aiohttp.ClientConnectorError):
        await world.http.get(world.address)


async def test_half_open_connections_do_not_keep_its_person_out(world: World) -> None:
    where = urlsplit(world.origin)
    held = [await asyncio.open_connection(where.hostname, where.port) for _ in range(400)]
    for number, (_, writer) in enumerate(held):
        writer.write(b"GET / HTTP/1.1\r\n"[: number % 17])
    ends = [asyncio.create_task(reader.read()) for reader, _ in held]
    async with asyncio.timeout(10):
        while sum(end.done() for end in ends) < 400 - module.CONNECTIONS.connections_each:
            await asyncio.sleep(0.01)
    await asyncio.sleep(2 * HEARD_WITHIN)
    async with asyncio.timeout(10), world.http.get(f"{world.origin}/page") as answer:
        assert answer.status == 200
    for _, writer in held:
        writer.close()
    await asyncio.gather(*ends, return_exceptions=True)
