"""taos agent shell: a terminal in an agent, in this terminal."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Annotated

import typer
from websockets.exceptions import ConnectionClosed
from websockets.sync.connection import Connection

from tinyagentos.cli.common import complete_agents, connect
from tinyagentos.model.errors import ALL_ERRORS, TaosError

END_OF_INPUT = b"\x04"
PIECE = 4096
LOST = 255


def shell(
    name: Annotated[str, typer.Argument(help="The agent's name.", autocompletion=complete_agents)],
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run, after `--`; else a shell.")
    ] = None,
    root: Annotated[bool, typer.Option(help="As root, not as the agent's own user.")] = False,
) -> None:
    """Open a shell in the agent; its exit status becomes ours."""
    width, height = shutil.get_terminal_size()
    with (
        connect().open_shell(name, command or [], width=width, height=height, root=root) as socket,
        raw_terminal(),
        resizing(socket),
        typing(socket),
    ):
        code = show(socket)
    raise typer.Exit(code)


def show(socket: Connection) -> int:
    """Show what comes until the command is over; its exit status."""
    out = sys.stdout.buffer
    with contextlib.suppress(ConnectionClosed):
        for message in socket:
            if isinstance(message, bytes):
                out.write(message)
                out.flush()
                continue
            said = json.loads(message)
            if "exit" in said:
                return int(said["exit"])
            kinds = {error.code: error for error in ALL_ERRORS}
            raise kinds.get(said["code"], TaosError)(said["message"], hint=said["hint"])
    return LOST


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes to the shell, while it lasts; nothing happens where there is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextlib.contextmanager
def resizing(socket: Connection) -> Iterator[None]:
    """The shell is as large as this terminal, also when that changes."""

    def tell(*_: object) -> None:
        width, height = shutil.get_terminal_size()
        with contextlib.suppress(ConnectionClosed):
            socket.send(json.dumps({"width": width, "height": height}))

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def typing(socket: Connection) -> Iterator[None]:
    """What is typed here is typed there, while it lasts."""
    ended, end = os.pipe()
    thread = threading.Thread(target=_type, args=(socket, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(end, b".")
        thread.join()
        os.close(end)
        os.close(ended)


def _type(socket: Connection, ended: int) -> None:
    try:
        stdin = sys.stdin.fileno()
    except (OSError, ValueError):
        return  # no input at all
    with contextlib.suppress(ConnectionClosed, OSError):
        while True:
            ready, _, _ = select.select([stdin, ended], [], [])
            if ended in ready:
                return
            typed = os.read(stdin, PIECE)
            socket.send(typed or END_OF_INPUT)
            if not typed:
                return
