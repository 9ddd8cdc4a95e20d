"""A host for the tests: set up like a user's, and with no daemon left over that was not there."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence

from tinyagentos import proc
from tinyagentos.config import Settings
from tinyagentos.host import incus_daemon, packages
from tinyagentos.host.facts import has_systemd
from tinyagentos.host.setup import set_up_host
from tinyagentos.incus import Incus, IncusError
from tinyagentos.model.errors import CommandFailed

Report = Callable[[str], None]
DAEMONS = ("incusd", "lxcfs")
STOP_WITHIN = 60.0


@contextlib.contextmanager
def testing_host(settings: Settings, extra: Sequence[str], *, report: Report) -> Iterator[None]:
    """Packages, Incus, pool, bridge; afterwards the daemons that were not there are stopped."""
    ours = [name for name in DAEMONS if incus_daemon.find_process(name) is None]
    asyncio.run(_prepare(settings, extra, report))
    try:
        yield
    finally:
        if not has_systemd():
            asyncio.run(_stop_daemons(settings, ours))


async def _prepare(settings: Settings, extra: Sequence[str], report: Report) -> None:
    await set_up_host(settings, report=report)
    missing = [name for name in extra if name not in await packages.read_installed()]
    if missing:
        report(f"installing {', '.join(missing)} …")
        await packages.install(packages.PackagePlan(tuple(missing)), report)


async def _stop_daemons(settings: Settings, names: Sequence[str]) -> None:
    """End these daemons by their ids; one that does not end is no failure of the tests."""
    sign = signal.SIGTERM
    with contextlib.suppress(IncusError):
        sign = signal.SIGTERM if await _runs_instances(settings) else signal.SIGPWR
    for name in names:
        if pid := incus_daemon.find_process(name):
            with contextlib.suppress(CommandFailed):
                # At SIGPWR incusd takes networks and pools down too, and instances: so not then.
                await proc.end(
                    pid,
                    within=STOP_WITHIN,
                    sign=sign if name == "incusd" else signal.SIGTERM,
                )


async def _runs_instances(settings: Settings) -> bool:
    """Whether any project has an instance that is not stopped."""
    async with Incus.unix(settings.incus_socket, project="default") as incus:
        for project in await incus.projects.list():
            found = await incus.with_project(project.name).instances.list()
            if any(one.status != "Stopped" for one in found):
                return True
    return False
