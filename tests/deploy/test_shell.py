"""A shell in an agent over the WebSocket of the API, on the fake Incus."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.fake_parts import FakeExec
from tests.unit.api.fake_services import FakeServices
from tinyagentos.agents.shell import Shells
from tinyagentos.api.app import create_api
from tinyagentos.api.services import Services
from tinyagentos.incus import Terminal
from tinyagentos.model.errors import Conflict, NotFound


async def echo(run: FakeExec) -> int:
    """Says back what is typed, until `exit`."""
    await run.write(b"$ ")
    while (typed := await run.stdin.get()) is not None:
        if b"exit" in typed:
            return 7
        await run.write(typed)
    return 0


@pytest.fixture
async def hello(folder: Path, fake: FakeIncus) -> AsyncIterator[Taos]:
    with_image(fake)
    made = Taos(folder, fake).start()
    await made.deploy("hello")
    fake.on_exec = echo
    yield made
    await made.close()


async def test_typing_showing_and_the_exit_status(hello: Taos) -> None:
    async with Shells(hello.host).open("hello", width=100, height=30) as terminal:
        assert await terminal.recv() == b"$ "
        await terminal.send(b"hi")
        assert await terminal.recv() == b"hi"
        await terminal.send(b"exit")
        assert await terminal.wait() == 7
    [run] = hello.fake.execs.values()
    assert run.body["user"] == 1000
    assert (run.body["width"], run.body["height"]) == (100, 30)
    assert run.body["command"] == ["bash", "-l"]


async def test_root_and_another_command_only_when_asked(hello: Taos) -> None:
    async with Shells(hello.host).open("hello", ("id",), as_root=True) as terminal:
        await terminal.recv()
    [run] = hello.fake.execs.values()
    assert (run.body["user"], run.body["command"]) == (0, ["id"])


async def test_no_shell_in_what_is_not_there_or_does_not_run(hello: Taos) -> None:
    shells = Shells(hello.host)
    with pytest.raises(NotFound):
        async with shells.open("nobody"):
            pass
    job = await hello.agents.start_power("hello", "stop")
    await hello.runner.wait_job(job.id)
    with pytest.raises(Conflict):
        async with shells.open("hello"):
            pass


class FakeTerminal:
    """A terminal in memory."""

    def __init__(self) -> None:
        self.shown: asyncio.Queue[bytes] = asyncio.Queue()
        self.size = (0, 0)

    async def send(self, typed: bytes) -> None:
        await self.shown.put(b"" if typed == b"exit" else typed.upper())

    async def recv(self) -> bytes:
        return await self.shown.get()

    async def resize(self, width: int, height: int) -> None:
        self.size = (width, height)
        await self.shown.put(f"{width}x{height}".encode())

    async def wait(self) -> int:
        return 3


class FakeShells:
    """Opens those, and remembers how they ended."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], bool]] = []
        self.closed = 0

    @asynccontextmanager
    async def open(
        self, name: str, command: Sequence[str] = (), *, width: int = 80, height: int = 24,
        as_root: bool = False,
    ) -> AsyncIterator[Terminal]:  # fmt: skip
        if name != "hello":
            raise NotFound("There is no such agent.", hint="List them.")
        self.asked.append((name, list(command), as_root))
        try:
            yield cast(Terminal, FakeTerminal())
        finally:
            self.closed += 1


@pytest.fixture
def shells() -> FakeShells:
    return FakeShells()


@pytest.fixture
def app(tmp_path: Path, shells: FakeShells) -> FastAPI:
    services = FakeServices(tmp_path)
    services.shells = shells
    return create_api(cast(Services, services))


HEADERS = {"Authorization": "Bearer secret-token", "Host": "localhost"}
PATH = "/api/agents/hello/shell"


def test_bytes_both_ways_sizes_and_the_end(app: FastAPI, shells: FakeShells) -> None:
    path = f"{PATH}?command=ls&command=-l&root=1"
    with TestClient(app).websocket_connect(path, headers=HEADERS) as socket:
        socket.send_bytes(b"hello")
        assert socket.receive_bytes() == b"HELLO"
        socket.send_text('{"width": 132, "height": 50}')
        assert socket.receive_bytes() == b"132x50"
        for nonsense in ("", "{", "[]", '{"width": "x"}', '{"width": -5, "height": 99999}'):
            socket.send_text(nonsense)
        assert socket.receive_bytes() == b"1x1000"
        socket.send_bytes(b"exit")
        assert json.loads(socket.receive_text()) == {"exit": 3}
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    assert shells.asked == [("hello", ["ls", "-l"], True)]


def test_a_caller_who_leaves_ends_the_shell(app: FastAPI, shells: FakeShells) -> None:
    with TestClient(app).websocket_connect(PATH, headers=HEADERS) as socket:
        socket.send_bytes(b"hello")
        assert socket.receive_bytes() == b"HELLO"
        socket.close()
        # Leaving the block would cancel the server's side, which may be at any point of its end.
        patience = time.monotonic() + 10
        while not shells.closed and time.monotonic() < patience:
            time.sleep(0.01)
    assert shells.closed == 1


def test_what_is_wrong_is_said_in_words(app: FastAPI) -> None:
    client = TestClient(app)
    with client.websocket_connect("/api/agents/nobody/shell", headers=HEADERS) as socket:
        assert json.loads(socket.receive_text())["code"] == "not_found"


@pytest.mark.parametrize(
    "headers", [{"Host": "localhost"}, HEADERS | {"Authorization": "Bearer x"},
                HEADERS | {"Host": "evil.test"}],
)  # fmt: skip
def test_nobody_else_gets_a_shell(
    app: FastAPI, shells: FakeShells, headers: dict[str, Any]
) -> None:
    with (
        pytest.raises(Exception, match=r"401|Unauthorized|WebSocketDenial|") as refused,
        TestClient(app).websocket_connect(PATH, headers=headers),
    ):
        pass
    assert refused.value is not None
    assert shells.asked == []
