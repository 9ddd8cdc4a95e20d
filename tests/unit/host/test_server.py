"""The server's process: how it is started, and who it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagentos.config import Settings
from tinyagentos.host.installation import of_folder
from tinyagentos.host.server import (
    is_hosts_own,
    is_serving,
    restart_server,
    server_pid,
    stop_server,
)
from tinyagentos.host.units import render_server
from tinyagentos.model.errors import InvalidInput


def test_a_server_may_open_files_enough() -> None:
    assert "LimitNOFILE=65536\n" in render_server(of_folder(Path("/x")), Settings())
    program = (
        "import resource; from tinyagentos.host.server import allow_files;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(allow_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    for soft, hard, allowed in ((256, 2048, 2048), (2048, 2048, 2048)):
        said = subprocess.run(
            [sys.executable, "-c", program.format(soft=soft, hard=hard)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert said.split() == [str(allowed), str(allowed), str(hard)]


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
    assert not await stop_server(settings)


def test_a_server_with_folders_of_its_own_is_not_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAOS_PORT", "9000")
    assert is_hosts_own(Settings(), Settings.of_host()), "a port alone makes no other server"
    monkeypatch.setenv("TAOS_RUN_DIR", str(tmp_path))
    assert Settings().run_dir == tmp_path
    assert not is_hosts_own(Settings(), Settings.of_host())


def test_the_hosts_settings_are_those_without_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Settings.of_host()
    monkeypatch.setenv("TAOS_PORT", "9000")
    assert Settings().port == 9000
    assert Settings.of_host() == before


@pytest.mark.parametrize("key", [None, Path("/nowhere/key.pem")])
async def test_a_certificate_that_cannot_be_used_is_refused_before_anything_is_stopped(
    tmp_path: Path, key: Path | None
) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("no certificate")
    settings = Settings(run_dir=tmp_path, tls_cert=certificate, tls_key=key)
    with pytest.raises(InvalidInput, match="HTTPS cannot be served with") as refused:
        await restart_server(settings, report=lambda _: None)
    assert "tls_cert" in refused.value.hint
