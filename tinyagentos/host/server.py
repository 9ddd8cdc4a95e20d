"""The server process: found running, or started; as a systemd unit where systemd runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tinyagentos import proc
from tinyagentos.config import Settings
from tinyagentos.host import units
from tinyagentos.host.facts import has_systemd
from tinyagentos.host.incus_daemon import last_words
from tinyagentos.host.installation import SOURCE, Program, ensure_installed, own_program
from tinyagentos.host.trust import find_changeable
from tinyagentos.model.errors import HostNotReady, InvalidInput

Report = Callable[[str], None]
START_WITHIN = 30.0
UNIT_WITHIN = 900.0
_CREDENTIALS = struct.Struct("3i")


def is_serving(settings: Settings) -> bool:
    """Whether the server answers on its Unix socket."""
    transport = httpx.HTTPTransport(uds=str(settings.server_socket))
    try:
        with httpx.Client(transport=transport, base_url="http://taos", timeout=5) as http:
            return http.get("/api/health").status_code == 200
    except httpx.TransportError:
        return False


async def ensure_server_running(settings: Settings, *, report: Report) -> None:
    """Return when the server answers; HostNotReady with its last words when it does not.

    The host's own runs from where only root can change it; a unit that does not is exchanged.
    """
    by_unit = has_systemd() and is_hosts_own(settings)
    if is_serving(settings) and not (by_unit and starts_changeable(units.SERVER)):
        return
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = await find_program(settings, report)
    report("starting the server …")
    begun = time.monotonic()
    pid = None
    if by_unit:
        await _start_unit(program, settings)
    else:
        pid = proc.start_detached(
            *program.starting("serve"),
            log=_log(settings),
            env={"PYTHONPATH": "" if program.prepare else python_path()},
        )
    while not is_serving(settings):
        ended = pid is not None and proc.has_ended(pid)
        if ended or time.monotonic() - begun > START_WITHIN:
            raise HostNotReady(
                f"The server did not start. {await _said(settings, by_unit)}".strip(),
                hint="Run `taos serve` to see why.",
            )
        await asyncio.sleep(0.05)  # it has no way to tell us before it serves
    report(f"  done in {time.monotonic() - begun:.1f} s")


async def find_program(settings: Settings, report: Report) -> Program:
    """What the server of these settings is started from.

    The host's own, which root starts, is installed. One with folders of its own runs from where the
    command line does: it is there for a trial or a test, and no unit starts it again.
    """
    if os.geteuid() == 0 and is_hosts_own(settings):
        return await ensure_installed(report)
    return own_program()


def starts_changeable(unit: Path) -> bool:
    """Whether the unit starts a program that others than root may change."""
    with contextlib.suppress(OSError):
        for line in unit.read_text().splitlines():
            word, _, command = line.partition("=")
            if word == "ExecStart" and find_changeable(Path(command.split()[0])):
                return True
    return False


async def _start_unit(program: Program, settings: Settings) -> None:
    """Write the units and start the server anew by them."""
    for path, text in units.render_units(program, settings).items():
        path.write_text(text)
    await proc.run("systemctl", "daemon-reload", within=60)
    names = (units.ACT_SOCKET.name, units.SERVER.name)
    await proc.run("systemctl", "enable", *names, within=60)
    # Packages that a new Python of the host needs are installed first, which takes its time.
    await proc.run("systemctl", "restart", *names, within=UNIT_WITHIN)


async def stop_server(settings: Settings, *, within: float = 30) -> bool:
    """Return when no server of these settings runs, with whether one did; its agents go on."""
    pid = server_pid(settings.server_socket)
    if pid is None:
        return False
    if has_systemd() and is_hosts_own(settings) and units.SERVER.exists():
        await proc.run("systemctl", "stop", units.SERVER.name, within=within)
    await proc.end(pid, within=within)
    return True


async def restart_server(settings: Settings, *, report: Report) -> None:
    """Return when a server with the settings as they are now answers; agents go on meanwhile.

    What cannot be served with is refused before the server that runs is stopped.
    """
    check_certificate(settings)
    if await stop_server(settings):
        report("the server is stopped")
    await ensure_server_running(settings, report=report)


def check_certificate(settings: Settings) -> None:
    """Raise InvalidInput when certificate and key of the settings are not fit for HTTPS."""
    if settings.tls_cert is None:
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
    except OSError as error:
        raise InvalidInput(
            f"HTTPS cannot be served with {settings.tls_cert} and {settings.tls_key or 'no key'}:"
            f" {error.strerror or error}.",
            hint="Set `tls_cert` and `tls_key` in taos.toml to a PEM certificate and its key.",
        ) from error


def is_hosts_own(settings: Settings, of_host: Settings | None = None) -> bool:
    """Whether the settings are of the server that the host's unit starts.

    A unit inherits no environment: a server whose folders come from there is another one, and
    must neither become the host's nor be stopped in its place.
    """
    hosts = of_host or Settings.of_host()
    return (settings.data_dir, settings.run_dir) == (hosts.data_dir, hosts.run_dir)


def server_pid(server_socket: Path) -> int | None:
    """The process that listens on the socket, as the kernel knows it; None: nobody does."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(server_socket))
        except OSError:
            return None
        seen = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )  # unix(7): process, user and group
        pid: int = _CREDENTIALS.unpack(seen)[0]
        return pid


def python_path() -> str:
    """Where the server's process finds this package."""
    return os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))


def allow_files() -> int:
    """Let this process have as many files open as it needs, or may; the number that came of it."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = units.MOST_FILES if most == resource.RLIM_INFINITY else min(units.MOST_FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        return wanted
    return now


def _log(settings: Settings) -> Path:
    return settings.data_dir / "server.log"


async def _said(settings: Settings, by_unit: bool) -> str:
    """The server's last words."""
    if not by_unit:
        return last_words(_log(settings), 5)
    return await proc.run(
        "journalctl", "--unit", units.SERVER.name, "--lines", "5", "--output", "cat", within=10
    )
