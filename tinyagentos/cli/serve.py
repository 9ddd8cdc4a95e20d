"""taos serve, stop and restart: the server itself. `taos up` starts it in the background."""

from __future__ import annotations

import asyncio
import os

import typer

from tinyagentos.cli.common import Json, need_root
from tinyagentos.cli.render import print_json, print_line
from tinyagentos.client import web_address
from tinyagentos.config import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(stop)
    app.command()(restart)


def serve() -> None:
    """Run the server in the foreground until a signal ends it."""
    from tinyagentos.app import run_server
    from tinyagentos.host.server import check_certificate

    settings = Settings()
    check_certificate(settings)
    asyncio.run(run_server(settings))


def stop(as_json: Json = False) -> None:
    """Stop the server. Agents go on; a job that is at work goes on with the next server."""
    from tinyagentos.host.server import stop_server

    settings = Settings()
    _need_own(settings, "Stopping the server")
    stopped = asyncio.run(stop_server(settings))
    if as_json:
        print_json({"stopped": stopped})
    else:
        print_line("The server is stopped; agents go on." if stopped else "No server runs.")


def restart(as_json: Json = False) -> None:
    """Stop the server and start it with the settings as they are now. Agents go on."""
    from tinyagentos.host.server import restart_server

    settings = Settings()
    _need_own(settings, "Restarting the server")
    report = (lambda _: None) if as_json else print_line
    asyncio.run(restart_server(settings, report=report))
    address = web_address(settings)
    print_json({"address": address}) if as_json else print_line(f"The server answers on {address}.")


def _need_own(settings: Settings, what: str) -> None:
    """Root owns the host's server; one with a folder of its own is whose that folder is."""
    if not os.access(settings.data_dir, os.W_OK):
        need_root(what)
