"""The server process: found running, or started; as a systemd unit where systemd runs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tinyagentos import proc
from tinyagentos.config import Settings
from tinyagentos.host.facts import has_systemd
from tinyagentos.model.errors import HostNotReady

Report = Callable[[str], None]
ROOT = Path(__file__).parent.parent.parent
UNIT = Path("/etc/systemd/system/taos.service")
START_WITHIN = 30.0


def is_serving(settings: Settings) -> bool:
    """Whether the server answers on its Unix socket."""
    transport = httpx.HTTPTransport(uds=str(settings.server_socket))
    try:
        with httpx.Client(transport=transport, base_url="http://taos", timeout=5) as http:
            return http.get("/api/health").status_code == 200
    except httpx.TransportError:
        return False


async def ensure_server_running(settings: Settings, *, report: Report) -> None:
    """Return when the server answers; HostNotReady with its last words when it does not."""
    if is_serving(settings):
        return
    report("starting the server …")
    begun = time.monotonic()
    log = settings.data_dir / "server.log"
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if has_systemd():
        UNIT.write_text(render_unit(serve_command()))
        await proc.run("systemctl", "daemon-reload", within=60)
        await proc.run("systemctl", "enable", "taos.service", within=60)
        await proc.run("systemctl", "restart", "taos.service", within=60)
    else:
        proc.start_detached(*serve_command(), log=log, env={"PYTHONPATH": python_path()})
    while not is_serving(settings):
        if time.monotonic() - begun > START_WITHIN:
            raise HostNotReady(
                f"The server did not start. {last_words(log)}".strip(),
                hint="Run `taos serve` to see why, or `journalctl -u taos`.",
            )
        time.sleep(0.05)  # noqa: ASYNC251 - a command line has nothing else to do
    report(f"  done in {time.monotonic() - begun:.1f} s")


def serve_command() -> tuple[str, ...]:
    """How to start the server as we were started ourselves."""
    launcher = ROOT / "taos"
    if has_systemd() and launcher.exists():
        return (str(launcher), "serve")
    if has_systemd() and (installed := shutil.which("taos")):
        return (installed, "serve")
    return (sys.executable, "-m", "tinyagentos.cli", "serve")


def python_path() -> str:
    """Where the server's process finds this package."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


def render_unit(command: tuple[str, ...]) -> str:
    """A systemd unit for the server.

    KillMode=process: daemons that the server started are not its own to end.
    """
    return f"""[Unit]
Description=taOS server
After=network.target incus.service
Wants=incus.service

[Service]
ExecStart={" ".join(command)}
Restart=always
RestartSec=2
KillMode=process

[Install]
WantedBy=multi-user.target
"""


def last_words(log: Path) -> str:
    """The last lines of the server's log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    except OSError:
        return ""
