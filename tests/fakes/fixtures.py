"""Fixtures of Incus, fake and real, for contract and integration tests.

A conftest.py takes them with `from tests.fakes.fixtures import *`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.fake_incus import Failure, FakeExec, FakeIncus
from tests.fakes.tiny_image import TinyImage, build_unified
from tinyagentos.incus import Incus, IncusError, NotFound

PREFIX = "taos-test-"
CREATED = "user.taos.created"
DAY = 24 * 3600
SOCKETS = ("/var/lib/incus/unix.socket", "/run/incus/unix.socket")

__all__ = [
    "Backend",
    "backend",
    "eventually",
    "fake_incus",
    "real_incus",
    "tiny_image",
]


@dataclass(frozen=True)
class Backend:
    """A daemon with an empty project that has a pool; fake is None when it is a real one."""

    incus: Incus
    pool: str
    socket: Path
    fake: FakeIncus | None = None


@pytest.fixture
async def fake_incus(tmp_path: Path) -> AsyncIterator[FakeIncus]:
    """A fake Incus on a socket; its commands do what busybox's would."""
    async with FakeIncus(tmp_path / "incus.sock") as fake:
        fake.on_exec = act_like_busybox
        yield fake


@pytest.fixture
async def real_incus() -> AsyncIterator[Backend]:
    """The real daemon of this machine with a project of the test's own, gone afterwards."""
    async with open_real() as backend:
        yield backend


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.incus)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """The fake always, and the real daemon where the marker `incus` is selected."""
    async with open_real() if request.param == "real" else open_fake(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_fake(folder: Path) -> AsyncIterator[Backend]:
    """A fake daemon whose commands do what busybox's would."""
    async with FakeIncus(folder / "incus.sock") as fake:
        fake.on_exec = act_like_busybox
        async with Incus.unix(fake.socket, project="taos") as incus:
            yield Backend(incus, "taos", fake.socket, fake)


@asynccontextmanager
async def open_real() -> AsyncIterator[Backend]:
    """The real daemon of this machine with a project of its own, gone afterwards."""
    named = os.environ.get("TAOS_INCUS_SOCKET", "")
    path = next(path for path in map(Path, (named, *SOCKETS)) if path.is_socket())
    name = f"{PREFIX}{secrets.token_hex(3)}"
    async with Incus.unix(path, project=name) as incus:
        await sweep(incus)
        config = {f"features.{what}": "true" for what in ("images", "profiles", "storage.volumes")}
        await incus.projects.ensure(
            name, config | {"features.networks": "false", CREATED: str(int(time.time()))}
        )
        pool = ""
        try:
            pool = await pick_pool(incus, name)
            root = {"root": {"type": "disk", "path": "/", "pool": pool}}
            await incus.profiles.ensure("default", devices=root)
            yield Backend(incus, pool, path)
        finally:
            await delete_project(incus, name)
            if pool == name:
                await incus.storage.delete_pool(pool)


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> TinyImage:
    """A unified image whose init idles."""
    return build_unified(tmp_path_factory.mktemp("image") / "tiny.tar.gz")


async def pick_pool(incus: Incus, name: str) -> str:
    """A pool that is there and quick, else a new `dir` pool of that name."""
    pools = {pool.driver: pool.name for pool in await incus.storage.list_pools()}
    for driver in ("btrfs", "zfs", "dir"):
        if driver in pools:
            return pools[driver]
    return (await incus.storage.create_pool(name, "dir")).name


async def delete_project(incus: Incus, name: str) -> None:
    """Delete the project with all it holds."""
    inside = incus.with_project(name)
    for instance in await inside.instances.list():
        with contextlib.suppress(NotFound):
            await inside.instances.delete(instance.name, force=True)
    for image in await inside.images.list():
        with contextlib.suppress(NotFound):
            await inside.images.delete(image.fingerprint)
    for pool in await inside.storage.list_pools():
        for volume in await inside.storage.list_volumes(pool.name):
            with contextlib.suppress(NotFound):
                await inside.storage.delete_volume(pool.name, volume.name)
    devices = (await inside.profiles.get("default")).devices
    if devices:
        await inside.profiles.update("default", config={}, devices={})
    for profile in await inside.profiles.list():
        if profile.name != "default":
            await inside.profiles.delete(profile.name)
    await incus.projects.delete(name)


async def sweep(incus: Incus) -> None:
    """Delete the projects that tests older than a day left behind."""
    for project in await incus.projects.list():
        created = project.config.get(CREATED, "")
        if project.name.startswith(PREFIX) and created and int(created) < time.time() - DAY:
            with contextlib.suppress(IncusError):
                await delete_project(incus, project.name)


async def eventually(is_so: Callable[[], Awaitable[bool]], *, within: float = 10) -> None:
    """Return when it is so; the test fails when that takes longer."""
    async with asyncio.timeout(within):
        while not await is_so():
            await asyncio.sleep(0.02)


async def act_like_busybox(run: FakeExec) -> int:
    """The few commands that the contract tests run."""
    match run.argv:
        case ["echo", *words]:
            await run.write(" ".join(words).encode() + b"\n")
        case ["cat"] if run.body.get("interactive"):
            while (typed := await run.stdin.get()) is not None and b"\x04" not in typed:
                await run.write(typed)
        case ["cat"]:
            while (piece := await run.stdin.get()) is not None:
                await run.write(piece)
        case ["cat", path]:
            if path not in run.instance.files:
                return 1
            await run.write(run.instance.files[path].content)
        case ["sleep", seconds]:
            await asyncio.sleep(float(seconds))
        case ["sh", "-c", "echo out; echo err >&2; exit 3"]:
            await run.write(b"out\n")
            await run.write(b"err\n", 2)
            return 3
        case ["env"]:
            await run.write("".join(f"{key}={run.env[key]}\n" for key in run.env).encode())
        case ["wc", "-c"]:
            size = 0
            while (piece := await run.stdin.get()) is not None:
                size += len(piece)
            await run.write(f"{size}\n".encode())
        case ["head", "-c", size]:
            await run.write(b"\0" * int(size))
        case ["true"]:
            return 0
        case _:
            raise Failure(400, "Command not found")
    return 0
