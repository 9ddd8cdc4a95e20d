"""A disk of the host is really full: under taOS's records, and under the pool of agents."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.unit.jobs.test_runner import World, make_runner
from tinyagentos.access import Access
from tinyagentos.jobs.runner import JobKind, Runner
from tinyagentos.model.agent import AgentSpec
from tinyagentos.model.errors import NoSpace
from tinyagentos.model.job import JobState
from tinyagentos.store.access import AccessTable
from tinyagentos.store.database import Database
from tinyagentos.store.reserve import Reserve

pytestmark = pytest.mark.incus
MIB = 1024**2
DISK_BYTES = 96 * MIB
GOOD = "a long and good password"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small ext4 of the test's own, in a file."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(("mkfs.ext4", "-q", "-m", "0", image), check=True)
    subprocess.run(("mount", "-o", "loop", image, folder), check=True)
    try:
        yield folder
    finally:
        subprocess.run(("umount", folder), check=True)


def fill(folder: Path) -> None:
    """Take every block, as a runaway program does; again whenever some are free."""
    with (folder / "thief").open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())


def open_server(folder: Path, world: World) -> tuple[Database, Runner]:
    """What app.py does with the database."""
    database = Database(folder / "taos.db", reserve=Reserve(folder / "reserve"))
    database.keep_room()
    runner = make_runner(database, world)
    runner.register(JobKind("delete", world.work, world.undo, ("one", "two"), makes_room=True))
    runner.start()
    return database, runner


async def delete_agents(runner: Runner, folder: Path, number: int) -> None:
    for one in range(number):
        fill(folder)
        async with asyncio.timeout(10):
            ended = await runner.wait_job(runner.submit("delete", f"agent:{one}", {}).id)
        assert ended.state is JobState.succeeded, ended.error


async def test_on_a_full_disk_agents_are_deleted_and_people_log_in(disk: Path) -> None:
    world = World()
    world.commit = True
    world.go_on.set()
    database, runner = open_server(disk, world)
    access = Access(AccessTable(database))
    await access.set_password(GOOD)
    assert (disk / "reserve").exists()
    fill(disk)
    await delete_agents(runner, disk, 40)
    session = await access.log_in(GOOD, "a")
    assert access.is_session(session)
    assert database.failure is None, "all of it is on disk"
    await runner.stop()
    database.close()

    # A server that starts on the full disk.
    fill(disk)
    database, runner = open_server(disk, world)
    assert Access(AccessTable(database)).is_session(session)
    await delete_agents(runner, disk, 40)
    assert database.failure is None
    assert not (disk / "reserve").exists()

    # There is room again: so is the reserve.
    (disk / "thief").unlink()
    database.keep_reserve()
    assert (disk / "reserve").exists()
    await runner.stop()
    database.close()


async def test_a_deploy_is_refused_when_the_disk_under_the_pool_is_full(disk: Path) -> None:
    """The pool itself says that it has 100 GiB."""
    (disk / "taos.img").touch()
    fill(disk)
    with tempfile.TemporaryDirectory(prefix="taos-") as name:
        async with FakeIncus(Path(name) / "incus.sock") as fake:
            with_image(fake)
            taos = Taos(Path(name), fake).start()
            await taos.deploy("before")
            fake.pools["taos"]["config"]["source"] = str(disk / "taos.img")
            with pytest.raises(NoSpace, match=rf"under storage pool taos \({disk}\) has 0 MiB"):
                await taos.agents.start_deploy(AgentSpec("hello"))
            assert await taos.agents.disk_room() == 0
            gone = await taos.agents.start_delete("before")
            assert (await taos.runner.wait_job(gone.id)).state is JobState.succeeded
            await taos.close()
