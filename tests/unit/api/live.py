"""A real server over services in memory, with real jobs: for the client and the command line."""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from tests.unit.api.fake_services import FakeServices
from tinyagentos.api.app import create_api
from tinyagentos.api.serve import serve
from tinyagentos.app import explain
from tinyagentos.config import Settings
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind, Runner
from tinyagentos.model.agent import Agent, AgentSpec, AgentState
from tinyagentos.model.errors import Conflict, NotFound, NotReady
from tinyagentos.model.job import Job
from tinyagentos.store.database import Database
from tinyagentos.store.jobs import JobTable

WITHIN = 20.0


class LiveServices(FakeServices):
    """Agents in memory, jobs run by the real runner.

    A deploy of `waits` goes on until `go_on`; one of `fails` fails; `unwell` never answers.
    """

    def __init__(self, folder: Path, agents: dict[str, Agent]) -> None:
        super().__init__(folder)
        self.running = agents
        self.go_on = asyncio.Event()
        self.database = Database(folder / "taos.db")
        self.jobs = Runner(
            JobTable(self.database),
            clock=lambda: datetime.now(UTC),
            new_id=lambda: uuid.uuid4().hex[:12],
            explain=explain,
        )
        for name, work in (
            ("deploy", self._deploy),
            ("start", self._start),
            ("restart", self._start),
            ("stop", self._stop),
            ("delete", self._delete),
        ):
            self.jobs.register(JobKind(name, work, steps=("work",)))

    async def start_deploy(self, spec: AgentSpec) -> Job:
        if spec.name in self.running:
            raise Conflict(f"There is an agent {spec.name!r} already.", hint="Take another name.")
        self._check(spec)
        return self.jobs.submit("deploy", f"agent:{spec.name}", {"name": spec.name})

    async def list_agents(self) -> tuple[Agent, ...]:
        return tuple(self.running.values())

    async def get_agent(self, name: str) -> Agent:
        if name not in self.running:
            raise NotFound(f"There is no agent {name!r}.", hint="`taos agent list` lists them.")
        return self.running[name]

    async def start_power(self, name: str, action: Literal["start", "stop", "restart"]) -> Job:
        return await self._submit(action, name)

    async def start_delete(self, name: str, *, keep_state: bool = False) -> Job:
        return await self._submit("delete", name)

    async def _submit(self, kind: str, name: str) -> Job:
        await self.get_agent(name)
        return self.jobs.submit(kind, f"agent:{name}", {"name": name})

    async def _deploy(self, job: JobContext) -> None:
        name = job.params["name"]
        job.choose_source("build", "no image is here")
        with job.step("install"):
            if name == "waits":
                await self.go_on.wait()
        with job.step("wait until ready"):
            if name == "fails":
                raise NotReady("The agent did not answer.", hint="Read its log.")
        self._put(name, AgentState.ready)

    async def _start(self, job: JobContext) -> None:
        with job.step("work"):
            self._put(job.params["name"], AgentState.ready)

    async def _stop(self, job: JobContext) -> None:
        with job.step("work"):
            self._put(job.params["name"], AgentState.stopped)

    async def _delete(self, job: JobContext) -> None:
        with job.step("work"):
            del self.running[job.params["name"]]

    def _put(self, name: str, state: AgentState) -> None:
        self.running[name] = make_agent(name, AgentState.unhealthy if name == "unwell" else state)


def make_agent(name: str, state: AgentState) -> Agent:
    """An agent in that state."""
    return Agent(name, "openclaw", "1.2", state, f"{name}-abcdef")


class LiveServer:
    """The server in a thread of its own, on loopback and a Unix socket.

    with LiveServer(folder) as server: ... It may be left and entered again: a restart, with the
    same agents and jobs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents: dict[str, Agent] = {}
        self.address = ""
        self._started = threading.Event()
        self._failed: BaseException | None = None

    @property
    def settings(self) -> Settings:
        """Where it serves; the port is known once it does."""
        port = int(self.address.rpartition(":")[2]) if self.address else 0
        return Settings(data_dir=self.folder, run_dir=self.folder, port=port)

    def __enter__(self) -> Self:
        self._started.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(WITHIN)
        if self._failed:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self.call(lambda: self._task.cancel())
        self._thread.join(WITHIN)
        assert not self._thread.is_alive()

    def call(self, act: Callable[[], object]) -> None:
        """Have the server's thread do something soon."""
        self._loop.call_soon_threadsafe(act)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failed = error
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(asyncio.sleep(0))
        self.services = LiveServices(self.folder, self.agents)
        self.services.jobs.start()
        self._task = asyncio.ensure_future(
            serve(create_api(self.services), self.settings, on_started=self._note)
        )
        try:
            await self._task
        finally:
            await self.services.jobs.stop()
            self.services.database.close()

    def _note(self, address: str) -> None:
        self.address = address
        self._started.set()


@contextmanager
def live_server(folder: Path) -> Iterator[LiveServer]:
    """A server that serves until the test is over; its token is in its token file."""
    with LiveServer(folder) as server:
        server.settings.token_file.write_text(server.services.token)
        yield server


async def main(folder: Path) -> None:
    """Serve until a signal ends it, as `taos serve` does; says where on standard output."""
    services = LiveServices(folder, {})
    services.jobs.start()
    await serve(
        create_api(services),
        services.settings,
        on_started=lambda address: print(address, flush=True),  # noqa: T201 - for the test
    )
    await services.jobs.stop()
    print("cleaned up", flush=True)  # noqa: T201 - for the test


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
