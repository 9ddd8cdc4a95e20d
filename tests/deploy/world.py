"""A taOS on the fake Incus whose server can die, and whose recipe takes no time."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.choice import needs_line
from tinyagentos.agents.host import Host
from tinyagentos.agents.kinds import agent_kinds
from tinyagentos.agents.readiness import health_asker
from tinyagentos.agents.service import Agents
from tinyagentos.agents.uses import Uses
from tinyagentos.agents.watch import Watch
from tinyagentos.app import explain, is_transient
from tinyagentos.config import Settings
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.host.walls import RECORD, Firewall, Walls
from tinyagentos.images.download import Supply
from tinyagentos.images.line import Line
from tinyagentos.images.service import Images
from tinyagentos.incus import Incus
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.agent import AgentSpec
from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.job import Job
from tinyagentos.model.recipe import Recipe
from tinyagentos.store.database import Connect, Database
from tinyagentos.store.jobs import JobTable
from tinyagentos.store.supply import SupplyTable
from tinyagentos.store.timings import TimingTable

ARCH = "x64"
MIB = 1024**2
GIB = 1024 * MIB
BASE_PRINT = "b" * 64
IMAGE_PRINT = "c" * 64


class QuickBuilder:
    """Carries a recipe out in no time: the instance gets one file."""

    def __init__(self, fake: FakeIncus) -> None:
        self.fake = fake
        self.builds = 0
        self.fail = False
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def ensure_base(self, recipe: Recipe, report: Callable[[str], None]) -> str:
        """The base is put straight into the fake."""
        if BASE_PRINT not in self.fake.project().images:
            self.fake.add_image("taos", BASE_PRINT, f"{recipe.base}/{ARCH}")
        return BASE_PRINT

    async def build(self, recipe: Recipe, instance: str, report: Callable[[str], None]) -> None:
        """Count, and fail when told."""
        self.builds += 1
        await self.go_on.wait()
        if self.fail:
            raise BuildFailed("npm said no", hint="again")

    @asynccontextmanager
    async def without_identity(self, instance: str) -> AsyncIterator[None]:
        """The fake's instances have none."""
        yield


async def own_addresses() -> tuple[IPv4Address, ...]:
    """The addresses of a host that is made up."""
    return (IPv4Address("192.168.7.7"),)


class Taos:
    """One server process: what it forgets when it dies is in here, what it keeps is on disk."""

    def __init__(
        self,
        folder: Path,
        fake: FakeIncus,
        *,
        memory: int = 64 * GIB,
        frameworks: tuple[str, ...] = ("openclaw",),
        connect: Connect = sqlite3.connect,
        **more: object,
    ) -> None:
        self.folder = folder
        self.fake = fake
        self.later = timedelta()
        self.settings = Settings(
            data_dir=folder, run_dir=folder, incus_socket=fake.socket, ready_within=5,
            **more,  # type: ignore[arg-type]
        )  # fmt: skip
        self.settings.agent_sockets.mkdir(exist_ok=True)
        self.database = Database(self.settings.database, connect=connect)
        self.incus = Incus.unix(fake.socket, project="taos")
        self.builder = QuickBuilder(fake)
        numbers = itertools.count()
        prefix = f"{id(self):x}"[-4:]

        async def soon(_: float) -> None:
            await asyncio.sleep(0.01)  # pauses of seconds are for people; the fake needs none

        self.runner = Runner(
            JobTable(self.database),
            clock=lambda: datetime.now(UTC),
            new_id=lambda: f"{prefix}{next(numbers)}",
            explain=explain,
            is_transient=is_transient,
            sleep=soon,
        )
        self.line = Line(
            is_needed=lambda: any(needs_line(job) for job in self.runner.list_active())
        )
        timings = TimingTable(self.database)
        recipes = {name: load_recipe(name) for name in frameworks}
        self.supply = Supply(
            self.incus, self.settings, ARCH, self.line, timings, SupplyTable(self.database),
            lambda: datetime.now(UTC) + self.later,
        )  # fmt: skip
        self.images = Images(self.supply, recipes, self.runner)
        self.host = Host(
            settings=self.settings,
            incus=self.incus,
            runner=self.runner,
            timings=timings,
            recipes=recipes,
            builder=self.builder,
            images=self.images,
            line=self.line,
            arch=ARCH,
            key=b"k" * 32,
            new_suffix=lambda: f"{next(numbers):06x}",
            memory_available=lambda: memory,
            memory_total=lambda: 64 * GIB,
            slowness=lambda: 1.0,
            now=lambda: datetime.now(UTC),
            watch=Watch(
                self.incus,
                health_asker(recipes, lambda name: self.settings.agent_sockets / f"{name}.sock"),
                lambda: self.runner.ended,
            ),
            addresses=own_addresses,
            uses=Uses(lambda: datetime.now(UTC) + self.later),
            walls=Walls(Firewall(), own_addresses, lambda: datetime.now(UTC), folder / RECORD),
        )
        self.agents = Agents(self.host)
        for kind in (*agent_kinds(self.host), *self.images.kinds()):
            self.runner.register(kind)

    def start(self) -> Taos:
        """Take up unfinished jobs."""
        self.runner.start()
        return self

    async def deploy(self, name: str, **spec: object) -> Job:
        """Deploy and wait."""
        job = await self.agents.start_deploy(AgentSpec(name, **spec))  # type: ignore[arg-type]
        return await self.runner.wait_job(job.id)

    async def idle(self) -> None:
        """Wait until no job is at work."""
        while active := self.runner.list_active():
            await self.runner.wait_job(active[0].id)

    async def die(self) -> None:
        """End as if killed: nothing more reaches the disk, no undoing is done."""
        self.runner._keep = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
        await self.runner.stop()
        await self.incus.close()
        self.database.close()

    async def close(self) -> None:
        """End in order."""
        await self.runner.stop()
        await self.incus.close()
        self.database.close()

    async def until(self, job_id: str, step: str) -> None:
        """Return as soon as the job is in the step, or past it."""
        async for job in self.runner.watch_job(job_id):
            if any(one.name == step and one.state != "pending" for one in job.steps):
                return


def with_image(fake: FakeIncus) -> None:
    """The framework's image is on the host."""
    fake.add_image("taos", IMAGE_PRINT, f"openclaw/{ARCH}")


def left_over(fake: FakeIncus, folder: Path) -> dict[str, list[str]]:
    """Everything that a deploy makes and that is there now."""
    project = fake.project()
    return {
        "instances": sorted(project.instances),
        "volumes": sorted(name for _, name in project.volumes),
        "sockets": sorted(path.name for path in (folder / "agents").iterdir()),
    }


NOTHING = {"instances": [], "volumes": [], "sockets": []}
