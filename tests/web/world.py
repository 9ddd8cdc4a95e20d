"""A real server with its pages over the fake Incus, in a thread of this process.

NiceGUI knows one application in a process, so all tests of the pages share one server.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar

from aiohttp import web

from tests.deploy.test_download import Released
from tests.deploy.world import Taos
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.fake_parts import FakeExec, OnAsk
from tests.fakes.mirror import Mirror
from tinyagentos.access import Access
from tinyagentos.agents.chat import Chat
from tinyagentos.agents.models import Choices, Models
from tinyagentos.agents.shell import Shells
from tinyagentos.api.app import create_api
from tinyagentos.api.interface import Interfaces
from tinyagentos.api.serve import serve
from tinyagentos.app import explain
from tinyagentos.gateway.events import openai_event
from tinyagentos.gateway.providers import Providers
from tinyagentos.gateway.session import LazySession
from tinyagentos.gateway.vault import Vault
from tinyagentos.host.check import Check
from tinyagentos.host.checks.pool import MOUNT, without_devices
from tinyagentos.host.setup import mend_check
from tinyagentos.model.errors import Conflict
from tinyagentos.model.job import Problem
from tinyagentos.store.access import AccessTable
from tinyagentos.store.providers import ProviderTable, UsageTable
from tinyagentos.web.entrance import Entrance

WITHIN = 30.0
PASSWORD = "correct horse battery"
T = TypeVar("T")


class WebTaos(Taos):
    """What the faces need, on the fake Incus."""

    def __init__(self, folder: Path, fake: FakeIncus, **more: object) -> None:
        super().__init__(folder, fake, **more)  # type: ignore[arg-type]
        self.jobs = self.runner
        self.token = secrets.token_urlsafe()
        self.access = Access(AccessTable(self.database))
        self.explain = explain
        self.http = LazySession()
        vault = Vault(b"v" * 32)
        self.providers = Providers(ProviderTable(self.database), vault, self.http)
        choices = Choices(self.incus)
        self.models = Models(self.host, self.providers, UsageTable(self.database), choices)
        self.chat = Chat(self.host, self.providers)
        self.shells = Shells(self.host)
        self.interfaces = Interfaces(self.host, self.access.is_session, self.token)

    async def missing(self) -> tuple[Problem, ...]:
        return ()

    async def mend(self, check: Check, report: Callable[[str], None]) -> None:
        await mend_check(self.settings, check, report=report)


class WebServer:
    """with WebServer(folder) as server: ... Its address, and a way to act in its thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self._ready = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(WITHIN)
        if self._failed:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WITHIN)
        assert not self._thread.is_alive()

    def do(self, act: Callable[[], Awaitable[T]]) -> T:
        """Have the server's thread do something, and wait for it."""

        async def run() -> T:
            return await act()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(WITHIN)

    def change(self, act: Callable[[], object]) -> None:
        """Have the server's thread do something that takes no time."""

        async def run() -> None:
            act()

        self.do(run)

    async def lose_incus(self) -> None:
        """Incus is away."""
        await self.fake.stop()

    def lose_channel(self) -> None:
        """No channel of images is configured."""
        self.taos.settings = self._settings.model_copy(update={"image_channel": ""})

    async def find_incus(self) -> None:
        """Incus is back, with all it had."""
        await self.fake.start()

    async def tidy(self) -> None:
        """Take back every fault, agent and image."""
        taos, fake = self.taos, self.fake
        taos.builder.fail = False
        taos.builder.go_on.set()
        fake.answer = None
        fake.awake.set()
        self.mirror.rate = 0
        fake.ready_after = 0
        for job in taos.runner.list_active():
            with contextlib.suppress(Conflict):
                taos.runner.cancel_job(job.id)
        await taos.idle()
        for agent in await taos.agents.list_agents():
            await taos.runner.wait_job((await taos.agents.start_delete(agent.name)).id)
        fake.project().images.clear()
        fake.project().aliases.clear()
        taos.database.execute("DELETE FROM jobs")
        for table in ("providers", "supply", "timings"):
            taos.database.execute(f"DELETE FROM {table}")
        taos.settings = self._settings
        for part in (self.folder / "cache" / "images").glob("*"):
            part.unlink()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.released = Released(self.folder)
        async with (
            FakeIncus(self.folder / "incus.sock") as self.fake,
            Mirror(self.released.files) as self.mirror,
        ):
            self.fake.on_exec = act_like_an_agent
            self.fake.pools["taos"]["config"] = {MOUNT: without_devices("")}  # as setup makes it
            self.talk = asyncio.Event()
            self.taos = WebTaos(
                self.folder, self.fake, port=0, image_channel=self.mirror.url,
                image_root=self.released.root, image_policy="manual",
                frameworks=("openclaw", "hermes-agent", "opencode"),
            )  # fmt: skip
            self._settings = self.taos.settings
            self.taos.start()
            entrance = Entrance(self.taos)
            tasks = [asyncio.create_task(entrance.run())]
            tasks.append(
                asyncio.create_task(
                    serve(
                        create_api(self.taos, entrance), self.taos.settings, on_started=self._note
                    )
                )
            )
            await self._stop.wait()
            for task in reversed(tasks):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await self.taos.interfaces.close()
            await self.taos.http.close()
            await self.taos.close()

    def _note(self, address: str) -> None:
        self.address = address
        self._ready.set()


def as_terminals_show(control: re.Match[bytes]) -> bytes:
    """`^C` for a Ctrl-C."""
    return b"^" + bytes([control[0][0] | 0x40])


async def act_like_an_agent(run: FakeExec) -> int:
    """The log of an agent, which goes on when followed until the agent's instance stops.

    Everything else just works.
    """
    if run.body.get("interactive"):
        await run.write(b"agent@hello:~$ ")
        while (typed := await run.stdin.get()) is not None:
            shown = re.sub(rb"[\x00-\x0c\x0e-\x1f]", as_terminals_show, typed)
            await run.write(shown.replace(b"\r", b"\r\nagent@hello:~$ "))
    elif run.argv[0] == "journalctl":
        for number in range(40):
            await run.write(f"12:00:{number:02} agent: turn {number} done\n".encode())
        await run.write(b"12:01:00 agent: <script>alert(1)</script> needle\n")
        if "-f" in run.argv or "--follow" in run.argv:
            began_with = list(run.instance.agents)
            while run.instance.agents == began_with:  # the fake makes others at each start
                await asyncio.sleep(0.05)
    return 0


ANSWER = (
    "Here is **what I found**:\n\n- one\n- two\n\n",
    "<script>alert(1)</script> [a page](https://example.org) ",
    "![a picture](https://example.org/x.png) [bad](javascript:alert(1))\n\n",
    "```\nprint('code')\n```\n",
)


def chat_slowly(go_on: asyncio.Event) -> OnAsk:
    """An agent that answers as OpenClaw does, the second half when it may go on."""

    async def answer(request: web.Request, _: str) -> web.StreamResponse:
        if request.path != "/v1/chat/completions":
            return web.Response(text="ready")
        asked = (await request.json())["messages"][-1]["content"]
        if "fail" in asked:
            return web.Response(status=500, text="out of order")
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for number, piece in enumerate(ANSWER):
            if number == 1:
                await go_on.wait()
            await stream.write(openai_event({"choices": [{"delta": {"content": piece}}]}))
        return stream

    return answer
