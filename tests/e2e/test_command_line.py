"""Command line -> server process -> fake Incus, each a program of its own as for a person."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from tests.fakes.fake_incus import FakeIncus
from tinyagentos.host.facts import host_arch
from tinyagentos.host.server import server_pid
from tinyagentos.model.image import INCUS_ARCH

ROOT = Path(__file__).parent.parent.parent
WITHIN = 30.0


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    status: int | None
    out: str
    err: str


class Person:
    """Runs `taos` with settings of the test's own."""

    def __init__(self, folder: Path, incus: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TAOS_DATA_DIR": str(folder / "data"),
            "TAOS_RUN_DIR": str(folder / "run"),
            "TAOS_PORT": "0",
            "TAOS_INCUS_SOCKET": str(incus),
            "TAOS_MEMORY_RESERVE_MB": "0",
            "TAOS_READY_WITHIN": "120",
        }

    async def begin(self, *argv: str) -> asyncio.subprocess.Process:
        """The command, under way."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tinyagentos.cli", *argv,
            env=self.env, cwd=ROOT, stdout=pipe, stderr=pipe,
        )  # fmt: skip

    async def taos(self, *argv: str) -> Ended:
        """The command, ended."""
        return await end(await self.begin(*argv))

    @asynccontextmanager
    async def server(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """`taos serve`, answering; ended by SIGTERM if it still runs."""
        process = await self.begin("serve")
        try:
            assert process.stderr
            async with asyncio.timeout(WITHIN):
                while b"taOS serves on" not in (line := await process.stderr.readline()):
                    assert line, "the server ended"
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.communicate(), WITHIN)


async def end(process: asyncio.subprocess.Process) -> Ended:
    """Wait for the command's end."""
    out, err = await asyncio.wait_for(process.communicate(), WITHIN)
    return Ended(process.returncode, out.decode(), err.decode())


async def begin_deploy(person: Person) -> asyncio.subprocess.Process:
    """`taos agent deploy hello`, waiting for an agent that is there and does not answer yet."""
    deploy = await person.begin("agent", "deploy", "hello")
    assert deploy.stdout
    async with asyncio.timeout(WITHIN):
        while b"start agent" not in (line := await deploy.stdout.readline()):
            assert line, "the deploy ended"
    return deploy


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="taos-") as name:
        yield Path(name)


@pytest.fixture
async def fake(folder: Path) -> AsyncIterator[FakeIncus]:
    """An Incus that has the framework's image."""
    async with FakeIncus(folder / "incus.sock") as running:
        arch = host_arch()
        running.add_image("taos", "c" * 64, f"openclaw/{arch}", architecture=INCUS_ARCH[arch])
        yield running


@pytest.fixture
def person(folder: Path, fake: FakeIncus) -> Person:
    return Person(folder, fake.socket)


async def test_an_agent_from_its_deploy_to_its_end(person: Person, fake: FakeIncus) -> None:
    async with person.server():
        ended = await person.taos("agent", "deploy", "hello")
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.startswith("by image: ")
        assert ended.out.splitlines()[-1].startswith("✓ wait until ready")
        assert "ready" in (await person.taos("agent", "list")).out
        again = await person.taos("agent", "deploy", "hello")
        assert again.status == 1
        assert again.err.startswith("taos: There is an agent 'hello' already.\n  hint: ")
        assert (await person.taos("agent", "stop", "hello")).status == 0
        shown = json.loads((await person.taos("agent", "show", "hello", "--json")).out)
        assert shown["state"] == "stopped"
        assert (await person.taos("agent", "delete", "hello")).status == 0
        assert fake.project().instances == {}
        bad = await person.taos("agent", "deploy", "../x")
        assert bad.status == 2
        assert fake.project().instances == {}


async def test_ctrl_c_leaves_the_deploy_to_the_server(person: Person, fake: FakeIncus) -> None:
    fake.ready_after = None
    async with person.server():
        deploy = await begin_deploy(person)
        deploy.send_signal(signal.SIGINT)
        ended = await end(deploy)
        assert ended.status == 3
        assert "goes on in the server" in ended.err
        assert "taos job cancel" in ended.err
        assert "Traceback" not in ended.err
        job = json.loads((await person.taos("job", "list", "--json")).out)[0]
        assert job["state"] == "running"
        assert (await person.taos("job", "cancel", job["id"])).status == 0
        watched = await person.taos("job", "watch", job["id"])
        assert watched.status == 3
        assert "✓ roll back" in watched.out
        assert fake.project().instances == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_command_that_waits_survives_a_restart_of_the_server(
    person: Person, fake: FakeIncus, number: signal.Signals
) -> None:
    booted = asyncio.Event()

    async def answer(_: web.Request, __: str) -> web.Response:
        return web.Response(status=200 if booted.is_set() else 503)

    fake.answer = answer
    async with person.server() as first:
        deploy = await begin_deploy(person)
        first.send_signal(number)
        await asyncio.wait_for(first.wait(), 5)
        booted.set()
        async with person.server():
            ended = await end(deploy)
            assert (ended.status, ended.err) == (0, "")
            assert "ready" in (await person.taos("agent", "list")).out


async def test_a_second_server_says_that_one_runs(person: Person) -> None:
    async with person.server():
        ended = await person.taos("serve")
        assert ended.status == 1
        assert ended.err.startswith("taos: A taOS server runs already.\n  hint: ")
        assert (await person.taos("job", "list")).status == 0


async def test_a_restart_has_changed_settings_take_effect(person: Person, fake: FakeIncus) -> None:
    (person.folder / "data").mkdir()
    try:
        started = await person.taos("restart")
        assert (started.status, started.err) == (0, "")
        assert started.out.startswith("starting the server …\n")
        first = server_pid(person.folder / "run" / "taos.sock")
        assert (await person.taos("job", "list")).out == "No jobs yet.\n"

        person.env |= {"TAOS_RUN_DIR": str(person.folder / "run"), "TAOS_PORT": "many"}
        refused = await person.taos("restart")
        assert refused.status == 2
        assert server_pid(person.folder / "run" / "taos.sock") == first, "it goes on"

        person.env |= {"TAOS_PORT": "0", "TAOS_MAX_JOBS": "1"}
        again = await person.taos("restart", "--json")
        assert (again.status, again.err) == (0, "")
        assert json.loads(again.out)["address"].startswith("http://127.0.0.1:")
        second = server_pid(person.folder / "run" / "taos.sock")
        assert second not in (None, first)
        environment = Path(f"/proc/{second}/environ").read_bytes()
        assert b"TAOS_MAX_JOBS=1" in environment
    finally:
        assert (await person.taos("stop")).out == "The server is stopped; agents go on.\n"
    assert server_pid(person.folder / "run" / "taos.sock") is None
    assert (await person.taos("stop", "--json")).out == '{\n  "stopped": false\n}\n'


async def test_the_server_is_healthy_with_no_incus_at_all(folder: Path) -> None:
    person = Person(folder, folder / "nothing.sock")
    async with person.server():
        assert (await person.taos("job", "list")).out == "No jobs yet.\n"
        ended = await person.taos("agent", "deploy", "hello")
        assert ended.status == 1
        assert ended.err.startswith("taos: Incus cannot be reached.\n  hint: ")


async def test_a_reader_that_has_seen_enough_makes_no_noise(person: Person) -> None:
    async with person.server():
        listing = await person.begin("agent", "logs", "nobody")
        await end(listing)
        table = await person.begin("image", "list", "--json")
        assert table.stdout
        table.stdout._transport.close()  # type: ignore[attr-defined] # as `| head` does
        assert table.stderr
        said = await asyncio.wait_for(table.stderr.read(), WITHIN)
        assert b"Traceback" not in said
        assert b"Exception ignored" not in said
        await table.wait()
