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
from collections.abc import Awaitable, Callable
from pathlib import Path

from tinyagentos import proc
from tinyagentos.config import Settings
from tinyagentos.host.facts import has_systemd
from tinyagentos.incus import Incus, IncusError
from tinyagentos.model.errors import CommandFailed, HostNotReady

_log = logging.getLogger(__name__)
Report = Callable[[str], None]

DAEMON_PLACES = ("/usr/libexec/incus/incusd", "/usr/lib/incus/incusd", "/opt/incus/bin/incusd")
# Where the daemon we can start listens; an Incus elsewhere is somebody else's.
DAEMON_SOCKETS = (Path("/var/lib/incus/unix.socket"), Path("/run/incus/unix.socket"))
HELPERS_PATH = "/usr/libexec/incus:/usr/lib/incus:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_DIR = Path("/var/log/incus")
LXCFS_MOUNT = Path("/var/lib/lxcfs")
MOUNTS = Path("/proc/self/mounts")
PROCESSES = Path("/proc")
SUBIDS = "root:1000000:1000000000\n"
FILES = 1048576
START_WITHIN = 60.0
# A daemon that lived this long was well: the next start comes without delay.
WELL_AFTER = 60.0
LONGEST_PAUSE = 60.0


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
    pid = None
    if has_systemd():
        await proc.run("systemctl", "enable", "--now", "incus.socket", within=60)
        await proc.run("systemctl", "start", "incus.service", within=120)
    else:
        ensure_subids(Path("/etc/subuid"), Path("/etc/subgid"))
        await ensure_lxcfs()
        pid = find_process("incusd") or start_incusd()
    await _wait_until_serving(settings, pid)


async def _wait_until_serving(settings: Settings, pid: int | None) -> None:
    """pid: the daemon's process, where it is known: when it ends, waiting is over."""
    log = LOG_DIR / "incusd.log"
    hint = f"Its log is {log}." if pid else "`journalctl -u incus` has its log."
    try:
        async with asyncio.timeout(START_WITHIN):
            while not await answers(settings):
                if pid and proc.has_ended(pid):
                    # Of two that were started at once, Incus lets the first go on.
                    pid = find_process("incusd")
                    if pid is None:
                        raise HostNotReady(f"Incus does not start. {last_words(log)}", hint=hint)
                await asyncio.sleep(0.1)  # the daemon has no way to tell us before it serves
    except TimeoutError as error:
        raise HostNotReady(
            f"Incus did not answer within {START_WITHIN:.0f} s.", hint=hint
        ) from error


def last_words(log: Path, lines: int = 3) -> str:
    """The end of a log; empty when there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def find_process(name: str, processes: Path = PROCESSES) -> int | None:
    """The oldest process of the program on this host.

    Processes inside containers are others' own; `incusd fork…` are helpers of the daemon.
    """
    ours = _namespace(processes / "self")
    for pid in sorted(int(folder.name) for folder in processes.glob("[0-9]*")):
        with contextlib.suppress(OSError):
            program, *words = (processes / str(pid) / "cmdline").read_bytes().split(b"\0")
            is_helper = any(word.startswith(b"fork") for word in words[:1])
            if Path(program.decode(errors="replace")).name != name or is_helper:
                continue
            if _namespace(processes / str(pid)) == ours:
                return pid
    return None


def _namespace(process: Path) -> str:
    return str((process / "ns" / "pid").readlink())


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


def start_incusd() -> int:
    """Start the daemon, its log in /var/log/incus; its process id."""
    LOG_DIR.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(ValueError, OSError):
        resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (FILES, FILES))
    return proc.start_detached(
        find_incusd(), "--group", "incus-admin",
        log=LOG_DIR / "incusd.log", env={"PATH": HELPERS_PATH},
    )  # fmt: skip


async def ensure_lxcfs() -> int | None:
    """The process of lxcfs, which shows containers their own memory; None: not installed."""
    if found := find_process("lxcfs"):
        return found
    program = shutil.which("lxcfs", path=HELPERS_PATH)
    if program is None:
        return None
    if f" {LXCFS_MOUNT} " in MOUNTS.read_text():
        # Left by one that was killed: every look at it fails, and mounting over it too.
        await proc.run("umount", "--lazy", str(LXCFS_MOUNT), within=10)
    LXCFS_MOUNT.mkdir(parents=True, exist_ok=True)
    LOG_DIR.mkdir(parents=True, exist_ok=True)
    return proc.start_detached(program, str(LXCFS_MOUNT), log=LOG_DIR / "lxcfs.log")


class IncusSupervisor:
    """Keeps Incus running where no systemd does. It never holds up the server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self) -> None:
        """Watch the daemons' processes, for ever; start again what ends.

        Returns at once where the Incus in use is not the host's own.
        """
        if self._settings.incus_socket not in DAEMON_SOCKETS:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_running("incusd", self._ensure_incusd))
            group.create_task(keep_running("lxcfs", ensure_lxcfs))

    async def _ensure_incusd(self) -> int | None:
        await ensure_running(self._settings, _log.info)
        async with Incus.unix(self._settings.incus_socket, project="default") as incus:
            return (await incus.server()).pid


async def keep_running(
    name: str,
    ensure: Callable[[], Awaitable[int | None]],
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Start the daemon again whenever it ends, with growing pauses while it does not live long.

    ensure: starts it where it does not run, and returns its process id; None ends this.
    """
    clock = asyncio.get_running_loop().time
    wait = 0.0
    while True:
        begun = clock()
        try:
            pid = await ensure()
            if pid is None:
                return
            await proc.wait_until_ended(pid)
            _log.warning("daemon ended", extra={"daemon": name, "pid": pid})
        except (HostNotReady, CommandFailed, IncusError, OSError) as error:
            _log.warning("daemon does not start", extra={"daemon": name, "error": str(error)})
            wait = max(wait, 1.0)
        if clock() - begun > WELL_AFTER:
            wait = 0.0
        await pause(wait)
        wait = min(max(wait * 2, 1.0), LONGEST_PAUSE)
