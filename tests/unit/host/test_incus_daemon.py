"""Which process is the daemon, and how it is kept running."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tinyagentos import proc
from tinyagentos.config import Settings
from tinyagentos.host.incus_daemon import (
    IncusSupervisor,
    ensure_running,
    find_process,
    keep_running,
)
from tinyagentos.model.errors import CommandFailed, HostNotReady


def add_process(folder: Path, pid: str, command: str, namespace: str = "pid:[1]") -> None:
    (folder / pid / "ns").mkdir(parents=True)
    (folder / pid / "ns" / "pid").symlink_to(namespace)
    (folder / pid / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    add_process(tmp_path, "self", "python3")
    add_process(tmp_path, "9", "/usr/libexec/incus/incusd --group incus-admin", "pid:[2]")
    add_process(tmp_path, "20", "/usr/libexec/incus/incusd forkproxy -- 1 2")
    add_process(tmp_path, "21", "grep incusd")
    return tmp_path


def test_helpers_and_daemons_inside_containers_are_not_the_daemon(processes: Path) -> None:
    assert find_process("incusd", processes) is None


def test_the_oldest_process_is_the_daemon(processes: Path) -> None:
    add_process(processes, "100", "incusd --group incus-admin")
    add_process(processes, "30", "/usr/libexec/incus/incusd --group incus-admin")
    assert find_process("incusd", processes) == 30


async def test_an_incus_elsewhere_is_not_ours_to_start(tmp_path: Path) -> None:
    settings = Settings(incus_socket=tmp_path / "socket")
    with pytest.raises(HostNotReady, match="does not answer on"):
        await ensure_running(settings, lambda _: None)
    await IncusSupervisor(settings).run()


def start_daemon() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


async def test_a_daemon_that_ends_is_started_again_with_growing_pauses() -> None:
    started: list[subprocess.Popen[bytes]] = []
    pauses: list[float] = []

    async def ensure() -> int | None:
        if len(started) == 4:
            return None
        if len(started) == 2 and pauses[-1] == 1:
            raise HostNotReady("not this time")
        started.append(start_daemon())
        started[-1].kill()
        return started[-1].pid

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    await keep_running("sleep", ensure, pause=pause)
    assert pauses == [0, 1, 2, 4, 8]
    assert all(one.wait() == -signal.SIGKILL for one in started)


async def test_a_process_is_ended_and_waited_for() -> None:
    daemon = start_daemon()
    assert not proc.has_ended(daemon.pid)
    await proc.end(daemon.pid, within=10)
    assert proc.has_ended(daemon.pid)
    assert daemon.wait() == -signal.SIGTERM
    await proc.end(daemon.pid, within=10)  # gone for good: nothing to do


async def test_a_process_that_does_not_end_is_a_sentence() -> None:
    with pytest.raises(CommandFailed, match="did not end within"):
        await proc.end(os.getpid(), within=0.01, sign=signal.SIGCONT)
