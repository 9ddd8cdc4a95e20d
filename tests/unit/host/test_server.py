"""The server's process: how it is started, and who it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tinyagentos.config import Settings
from tinyagentos.host.server import is_serving, render_unit, server_pid, stop_server


def test_the_unit_does_not_take_the_daemons_down_with_it() -> None:
    unit = render_unit(("/x/taos", "serve"))
    assert "ExecStart=/x/taos serve\n" in unit
    assert "KillMode=process\n" in unit


def test_the_server_is_known_by_who_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert server_pid(path) == os.getpid()
    assert server_pid(path) is None


async def test_a_server_that_does_not_run_needs_no_stopping(tmp_path: Path) -> None:
    settings = Settings(run_dir=tmp_path)
    assert not is_serving(settings)
    await stop_server(settings)
