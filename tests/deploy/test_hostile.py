"""An agent that does its worst at its door: only it is unwell, and only it is told so."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.deploy.test_watch import until
from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents import watch as module
from tinyagentos.agents.readiness import MOST_SAID, Answer, ask, open_agent
from tinyagentos.incus import Instance
from tinyagentos.model.agent import AgentState

Act = Callable[[asyncio.StreamWriter], Awaitable[None]]
MIB = 1024 * 1024


def says(answer: bytes) -> Act:
    """These bytes, whatever is asked."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return act


def says_for_ever(head: bytes, piece: bytes) -> Act:
    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return act


async def says_nothing(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@asynccontextmanager
async def behind(socket: Path, act: Act) -> AsyncIterator[None]:
    """That at the socket instead of an agent."""

    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await act(writer)
        writer.close()

    socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, str(socket))
    try:
        yield
    finally:
        server.close()
        for task in serving:
            if task:
                task.cancel()


OK = b"HTTP/1.1 200 OK\r\n"
TO_NOWHERE = b"HTTP/1.1 302 Found\r\nLocation: http://a%3Ab@x/\r\nContent-Length: 0\r\n\r\n"
CHUNK = b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"
BOMB = gzip.compress(bytes(64 * MIB))
HOSTILE: dict[str, tuple[Act, int]] = {
    "redirect that is no address": (says(TO_NOWHERE), 302),
    "redirect to itself": (
        says(b"HTTP/1.1 307 x\r\nLocation: /readyz\r\nContent-Length: 0\r\n\r\n"), 307,
    ),
    "redirect elsewhere": (
        says(b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), 302,
    ),
    "endless body": (says_for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK), 200),
    "endless line": (says_for_ever(b"HTTP/1.1 ", b"x" * 0xFFFF), 0),
    "endless header": (says_for_ever(OK + b"X: ", b"x" * 0xFFFF), 0),
    "endless headers": (says_for_ever(OK, b"X-Another: header\r\n" * 4000), 0),
    "endless continuing": (says_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 4000), 0),
    "garbage": (says(bytes(range(256)) * 100), 0),
    "no HTTP": (says(b"SSH-2.0-OpenSSH_10.0\r\n"), 0),
    "nothing": (says(b""), 0),
    "silence": (says_nothing, 0),
    "cookies": (
        says(OK + b"Set-Cookie: \x01=;;=\xff\r\n" * 20 + b"Content-Length: 0\r\n\r\n"), 200,
    ),
    "length that is none": (says(OK + b"Content-Length: -7\r\n\r\n"), 0),
    "two lengths": (says(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 0),
    "deep JSON": (says(OK + b"Content-Length: 400000\r\n\r\n" + b"[" * 400_000), 200),
    "packed too well": (
        says(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB), 200,
    ),
    "packed by nobody knows what": (
        says(OK + b"Content-Encoding: br, zstd\r\nContent-Length: 3\r\n\r\nabc"), 200,
    ),
    "switching": (says(b"HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), 101),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
async def test_whatever_it_says_is_an_answer(folder: Path, what: str) -> None:
    act, status = HOSTILE[what]
    socket = folder / "door.sock"
    async with behind(socket, act), open_agent(socket) as agent:
        tracemalloc.start()
        begun = time.monotonic()
        answer = await ask(agent, "/readyz", within=0.5)
        assert time.monotonic() - begun < 2
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert answer.status == status, answer
    assert answer.said.isprintable()
    assert len(answer.said) < MOST_SAID + 10
    assert most < 32 * MIB


@pytest.fixture
async def two(folder: Path, fake: FakeIncus) -> AsyncIterator[Taos]:
    """A watching server with the agents `good` and `bad`, which is about to turn."""
    with_image(fake)
    taos = Taos(folder, fake).start()
    for name in ("good", "bad"):
        await taos.deploy(name)
    yield taos
    await taos.close()


@asynccontextmanager
async def watching(taos: Taos) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(taos.host.watch.run())
    await until(lambda: taos.host.watch._follows)
    yield running
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_one_hostile_agent_spoils_nothing_for_the_others(
    two: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_PAUSE", 0.01)
    monkeypatch.setattr(module, "SOON", 0.05)
    bad = (await two.agents.get_agent("bad")).instance
    async with behind(two.host.socket(bad), says(TO_NOWHERE)):
        # Nobody watches yet: looking asks.
        seen = {one.name: one.state for one in await two.agents.list_agents()}
        assert seen == {"good": AgentState.ready, "bad": AgentState.unhealthy}
        async with watching(two) as running:
            async with asyncio.timeout(5):
                while (await two.agents.get_agent("bad")).state is not AgentState.unhealthy:
                    await asyncio.sleep(0.02)
            job = await two.agents.start_power("good", "restart")
            await two.runner.wait_job(job.id)
            assert (await two.agents.get_agent("good")).state is AgentState.ready
            assert not running.done()


async def test_an_agent_that_cannot_even_be_asked_ends_nothing(
    two: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_PAUSE", 0.01)
    asked = two.host.watch._ask

    async def ask_it(instance: Instance) -> Answer:
        if instance.name.startswith("bad"):
            raise RecursionError("nobody thought of this")
        return await asked(instance)

    two.host.watch._ask = ask_it
    async with watching(two) as running:
        await comes_to(two, "bad", AgentState.unhealthy)
        await comes_to(two, "good", AgentState.ready)
        assert not running.done()


async def comes_to(taos: Taos, name: str, wanted: AgentState) -> None:
    async with asyncio.timeout(5):
        while (await taos.agents.get_agent(name)).state is not wanted:
            await asyncio.sleep(0.02)


async def test_watching_that_breaks_off_begins_again(
    two: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_AFTER", 0.05)
    follow, broke = two.host.watch._follow, 0

    async def breaks_once() -> None:
        nonlocal broke
        broke += 1
        if broke == 1:
            raise ValueError("no event")
        await follow()

    two.host.watch._follow = breaks_once  # type: ignore[method-assign]
    async with watching(two):
        await comes_to(two, "good", AgentState.ready)
