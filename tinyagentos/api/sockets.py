"""Where the server listens: an address and a Unix socket, and only one server at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
from collections.abc import Iterator
from pathlib import Path

from tinyagentos.config import Settings
from tinyagentos.model.errors import Conflict, HostNotReady
from tinyagentos.net.accept import BACKLOG


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The TCP and the Unix socket. While it lasts no other server of this data_dir can start.

    Raises Conflict when one runs already, HostNotReady when the address cannot be had.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(settings.data_dir / "server.lock"))
        tcp = stack.enter_context(bind_tcp(settings.host, settings.port))
        local = stack.enter_context(bind_local(settings.server_socket))
        stack.callback(settings.server_socket.unlink, missing_ok=True)
        yield tcp, local


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening socket at the address; HostNotReady when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        return _listening(socket.socket(family, kind, protocol), address)
    except OSError as error:
        raise HostNotReady(
            f"The server cannot listen on {host} port {port}: {error.strerror}.",
            hint="Another program has the port; set `port` in taos.toml or TAOS_PORT."
            if error.errno == errno.EADDRINUSE
            else "Set `host` and `port` to an address that this machine has.",
        ) from error


def bind_local(path: Path) -> socket.socket:
    """A listening Unix socket that only its owner can open; a dead server's is replaced."""
    if answers(path):
        raise _runs_already()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return _listening(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
    except OSError as error:
        raise HostNotReady(
            f"The socket {path} cannot be made: {error.strerror or error}.",
            hint="Set `run_dir` to a folder that you may write to, with a short path.",
        ) from error


def answers(path: Path) -> bool:
    """Whether somebody listens on the Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def web_address(host: str, port: int, *, tls: bool = False) -> str:
    """The address as a browser takes it."""
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _listening(bound: socket.socket, address: Path | tuple[object, ...]) -> socket.socket:
    try:
        if isinstance(address, Path):
            bound.bind(str(address))
            address.chmod(0o600)  # before it listens, so that nobody else gets in
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        bound.listen(BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """A lock that ends with the process, however that ends."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise HostNotReady(
            f"{path} cannot be made: {error.strerror}.",
            hint="Run the server as root, or set `data_dir` to a folder that you may write to.",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _runs_already() from error
        yield


def _runs_already() -> Conflict:
    return Conflict(
        "A taOS server runs already.", hint="Stop that one first, or use it: `taos agent list`."
    )
