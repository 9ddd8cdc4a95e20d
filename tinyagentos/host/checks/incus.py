"""Incus runs and answers us."""

from __future__ import annotations

import os

from tinyagentos.host import incus_daemon
from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine


async def look(ground: Ground) -> Finding:
    """Ask the daemon for itself."""
    if await incus_daemon.answers(ground.settings):
        return fine("Incus answers")
    socket = ground.settings.incus_socket
    if not ground.facts.is_root and socket.exists() and not os.access(socket, os.W_OK):
        return broken(
            f"you may not speak to Incus on {socket}",
            hint="Run the same command with sudo, or join the group incus-admin.",
        )
    how = "with systemd" if ground.facts.has_systemd else "and supervise it ourselves"
    return broken(f"Incus does not answer on {socket}", plan=f"start Incus {how}")


async def fix(ground: Ground, report: Report) -> None:
    """Start the daemon and wait until it serves."""
    await incus_daemon.ensure_running(ground.settings, report)


CHECK = Check("incus", "nothing can be deployed without it", look, fix)
