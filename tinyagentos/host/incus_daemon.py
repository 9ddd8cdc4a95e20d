"""Incus running: by systemd where it runs, else started and supervised by us.

Daemons that we start are in a session of their own: they outlive the server, as agents must, and
the next server finds them running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from tinyagentos import proc
from tinyagentos.config import Settings
from tinyagentos.host.facts import has_systemd
from tinyagentos.incus import Incus, IncusError
from tinyagentos.model.errors import HostNotReady

_log = logging.getLogger(__name__)
Report = Callable[[str], None]

DAEMON_PLACES = ("/usr/libexec/incus/incusd", "/usr/lib/incus/incusd", "/opt/incus/bin/incusd")
# Where the daemon we can start listens; an Incus elsewhere is somebody else's.
DAEMON_SOCKETS = (Path("/var/lib/incus/unix.socket"), Path("/run/incus/unix.socket"))
HELPERS_PATH = "/usr/libexec/incus:/usr/lib/incus:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_DIR = Path("/var/log/incus")
LXCFS_MOUNT = Path("/var/lib/lxcfs")
SUBIDS = "root:1000000:1000000000\n"
FILES = 1048576
START_WITHIN = 60.0


async def answers(settings: Settings, within: float = 2.0) -> bool:
    """Whether Incus answers on its socket and takes our calls."""
    async with Incus.unix(settings.incus_socket, project="default") as incus:
        try:
            return (await incus.server(within=within)).is_trusted
        except IncusError:
            return False


async def ensure_running(settings: Settings, report: Report) -> None:
    """Return when Incus serves; HostNotReady when it does not get there."""
    if await answers(settings):
        return
    report("starting Incus")
    if settings.incus_socket not in DAEMON_SOCKETS:
        raise HostNotReady(
            f"Incus does not answer on {settings.incus_socket}.",
            hint="Start that Incus yourself, or unset `incus_socket`.",
        )
    if has_systemd():
        await proc.run("systemctl", "enable", "--now", "incus.socket", within=60)
        await proc.run("systemctl", "start", "incus.service", within=120)
    else:
        ensure_subids(Path("/etc/subuid"), Path("/etc/subgid"))
        start_lxcfs()
        start_incusd()
    async with asyncio.timeout(START_WITHIN):
        while not await answers(settings):
            await asyncio.sleep(0.1)  # the daemon has no way to tell us before it serves


def ensure_subids(*files: Path) -> None:
    """Give root a range of user ids for containers, unless the file has one."""
    for file in files:
        text = file.read_text() if file.exists() else ""
        if not any(line.startswith("root:") for line in text.splitlines()):
            file.write_text(text + SUBIDS)


def find_incusd() -> str:
    """Where the daemon's program is; HostNotReady when it is not installed."""
    found = next((place for place in DAEMON_PLACES if Path(place).exists()), None)
    if found := found or shutil.which("incusd"):
        return found
    raise HostNotReady("Incus is not installed.", hint="Run `taos setup`.")


def start_incusd() -> None:
    """Start the daemon; its log is in /var/log/incus."""
    LOG_DIR.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(ValueError, OSError):
        resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (FILES, FILES))
    proc.start_detached(
        find_incusd(), "--group", "incus-admin",
        log=LOG_DIR / "incusd.log", env={"PATH": HELPERS_PATH},
    )  # fmt: skip


def start_lxcfs() -> None:
    """Start lxcfs, which shows containers their own memory and processors, if it is there."""
    program = shutil.which("lxcfs")
    if program is None or os.path.ismount(LXCFS_MOUNT):
        return
    LXCFS_MOUNT.mkdir(parents=True, exist_ok=True)
    LOG_DIR.mkdir(parents=True, exist_ok=True)
    proc.start_detached(program, str(LXCFS_MOUNT), log=LOG_DIR / "lxcfs.log")


class IncusSupervisor:
    """Keeps Incus running where no systemd does. It never holds up the server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self) -> None:
        """Watch the daemon's process, for ever; start it again when it ends."""
        wait = 1.0
        while True:
            try:
                await ensure_running(self._settings, _log.info)
                wait = 1.0
                await self._until_it_ends()
                _log.warning("incusd ended")
            except (HostNotReady, OSError, TimeoutError, IncusError) as error:
                _log.warning("Incus cannot be started", extra={"error": str(error)})
                await asyncio.sleep(wait)
                wait = min(wait * 2, 60.0)

    async def _until_it_ends(self) -> None:
        async with Incus.unix(self._settings.incus_socket, project="default") as incus:
            pid = (await incus.server()).pid
        ended = asyncio.Event()
        watched = os.pidfd_open(pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(watched, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(watched)
            os.close(watched)
