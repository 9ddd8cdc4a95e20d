"""taos serve: the server in the foreground."""

from __future__ import annotations

import asyncio

import typer

from tinyagentos.config import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve() -> None:
    """Run the server until a signal ends it."""
    from tinyagentos.app import run_server

    asyncio.run(run_server(Settings()))
