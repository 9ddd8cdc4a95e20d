"""What every command shares: the --json option, and a client of the server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tinyagentos.client import Client
from tinyagentos.config import Settings
from tinyagentos.model.errors import Unauthorized
from tinyagentos.visible import visible_line

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]


COMPLETE_WITHIN = 1.0


def complete_agents(begun: str) -> list[str]:
    """Agents whose names begin so, for the shell's completion: quick, and silent when it fails."""
    return _complete(begun, "/api/agents")


def complete_frameworks(begun: str) -> list[str]:
    """Frameworks whose names begin so."""
    return _complete(begun, "/api/frameworks")


def complete_providers(begun: str) -> list[str]:
    """Providers whose names begin so."""
    return _complete(begun, "/api/providers")


def complete_jobs(begun: str) -> list[str]:
    """Jobs whose ids begin so, the newest first."""
    return _complete(begun, "/api/jobs", "id")


def _complete(begun: str, path: str, key: str = "name") -> list[str]:
    try:
        found = connect().look(path, within=COMPLETE_WITHIN)
        names = [str(one[key]) for one in found]
        return [one for one in names if one.startswith(begun) and one == visible_line(one)]
    except Exception:
        return []


def connect() -> Client:
    """A client of the server that the settings name."""
    return Client.connect(Settings())


def need_root(what: str, *, user: int | None = None) -> None:
    """Raise Unauthorized unless the user (its number; None: who we are) is root."""
    if (os.geteuid() if user is None else user) != 0:
        raise Unauthorized(f"{what} needs root.", hint="Run the same command with sudo.")
