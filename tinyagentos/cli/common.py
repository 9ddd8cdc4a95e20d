"""What every command shares: the --json option, and a client of the server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tinyagentos.client import Client
from tinyagentos.config import Settings
from tinyagentos.model.errors import Unauthorized

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]


def connect() -> Client:
    """A client of the server that the settings name."""
    return Client.connect(Settings())


def need_root(what: str, *, user: int | None = None) -> None:
    """Raise Unauthorized unless the user (its number; None: who we are) is root."""
    if (os.geteuid() if user is None else user) != 0:
        raise Unauthorized(f"{what} needs root.", hint="Run the same command with sudo.")
