"""A host for the tests: set up like a user's, and with no daemon left over that was not there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tinyagentos.config import Settings
from tinyagentos.host import incus_daemon, packages
from tinyagentos.host.facts import has_systemd
from tinyagentos.host.setup import set_up_host
from tinyagentos.incus import Incus

Report = Callable[[str], None]
STOP_WITHIN = 30.0


@contextlib.contextmanager
def testing_host(settings: Settings, extra: Sequence[str], *, report: Report) -> Iterator[None]:
    """Packages, Incus, pool, bridge; afterwards the daemon is stopped if we started it."""
    was_running = asyncio.run(incus_daemon.answers(settings))
    asyncio.run(_prepare(settings, extra, report))
    try:
        yield
    finally:
        if not was_running and not has_systemd():
            asyncio.run(_stop_daemons(settings))


async def _prepare(settings: Settings, extra: Sequence[str], report: Report) -> None:
    await set_up_host(settings, report=report)
    missing = [name for name in extra if name not in await packages.read_installed()]
    if missing:
        report(f"installing {', '.join(missing)} …")
        await packages.install(packages.PackagePlan(tuple(missing)), report)


async def _stop_daemons(settings: Settings) -> None:
    """End the incusd and lxcfs that we started, by their ids."""
    async with Incus.unix(settings.incus_socket, project="default") as incus:
        await _end((await incus.server()).pid)
    for command in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if command.read_text().strip() == "lxcfs":
                await _end(int(command.parent.name))


async def _end(pid: int) -> None:
    ended = asyncio.Event()
    watched = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(watched, ended.set)
    try:
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(STOP_WITHIN):
            await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)
