"""Serving the API on the host's loopback and on a Unix socket, until a signal ends it."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tinyagentos.config import Settings
from tinyagentos.model.errors import Conflict, HostNotReady

GRACE = 3
BACKLOG = 128


async def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises HostNotReady when the address is taken, Conflict when another server of the same
    data_dir runs.
    """
    local = bind_local(settings.server_socket)
    try:
        tcp = bind_tcp(settings.host, settings.port)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
        )
        host, port = tcp.getsockname()[:2]
        print(f"taOS serves on http://{host}:{port}", file=sys.stderr)  # noqa: T201 - for people
        await uvicorn.Server(config).serve(sockets=[tcp, local])
    finally:
        local.close()
        settings.server_socket.unlink(missing_ok=True)


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening socket at the address; HostNotReady when it cannot be had."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(info[0], info[1], info[2])
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(info[4])
        bound.listen(BACKLOG)
    except OSError as error:
        raise HostNotReady(
            f"The server cannot listen on {host} port {port}: {error.strerror}.",
            hint="Another program has the port; set `port` in taos.toml or TAOS_PORT.",
        ) from error
    return bound


def bind_local(path: Path) -> socket.socket:
    """A listening Unix socket that only its owner can open; a dead server's is replaced."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if answers(path):
        raise Conflict(
            "A taOS server runs already.", hint="Stop that one first, or use it: `taos agent list`."
        )
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    try:
        bound.bind(str(path))
    except OSError as error:
        raise HostNotReady(
            f"The socket {path} cannot be made: {error.strerror or error}.",
            hint="Set `run_dir` to a folder that you may write to.",
        ) from error
    path.chmod(0o600)
    bound.listen(BACKLOG)
    return bound


def answers(path: Path) -> bool:
    """Whether somebody listens on the Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
