"""The README's first command as a person runs it: the launcher, real Incus, an agent that answers.

Folders, port and Incus project are the test's own, so the host's server and agents are not met.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bench.common import incus, remove_project
from tinyagentos.config import Settings
from tinyagentos.host.server import server_pid, stop_server

ROOT = Path(__file__).parent.parent.parent
WITHIN = 600
QUICK = 15.0

pytestmark = [pytest.mark.incus, pytest.mark.build, pytest.mark.e2e]


@dataclass(frozen=True)
class Person:
    """Somebody in the checkout, with settings of their own in the environment."""

    settings: Settings

    def taos(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`./taos ARGUMENTS`, ended."""
        settings = self.settings
        own = {
            "TAOS_DATA_DIR": str(settings.data_dir),
            "TAOS_RUN_DIR": str(settings.run_dir),
            "TAOS_INCUS_PROJECT": settings.incus_project,
            "TAOS_PORT": str(settings.port),
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("TAOS_")}
        return subprocess.run(
            ["./taos", *argv], cwd=ROOT, env=others | own, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=WITHIN, check=False,
        )  # fmt: skip

    def wait_until_idle(self) -> None:
        """Return when no job is at work: a fresh build goes on with keeping its image."""
        until = time.monotonic() + WITHIN
        while time.monotonic() < until:
            jobs = json.loads(self.taos("job", "list", "--json").stdout)
            if all(job["finished_at"] for job in jobs):
                return
            time.sleep(1)
        raise AssertionError("a job is still at work")


@pytest.fixture
def person() -> Iterator[Person]:
    """Nothing is there yet; whatever the test leaves is removed."""
    assert (ROOT / ".venv" / "complete").exists(), "run the tests with `./taos test`"
    folder = Path(tempfile.mkdtemp(prefix="taos-up-"))
    settings = Settings(
        data_dir=folder / "data",
        run_dir=folder / "run",
        incus_project=f"taos-test-{secrets.token_hex(3)}",
        port=free_port(),
    )
    try:
        yield Person(settings)
    finally:
        asyncio.run(stop_server(settings))
        if settings.incus_project in incus("project", "list", "--format", "csv"):
            remove_project(settings.incus_project)
        shutil.rmtree(folder)


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_one_command_leads_to_an_agent_that_answers_and_again_changes_nothing(
    person: Person,
) -> None:
    first = person.taos("up", "hello")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "starting the server …" in first.stdout
    assert "✓ wait until ready" in first.stdout
    said = summary_of(first.stdout)
    assert said[0].startswith("Agent hello (openclaw ")
    assert said[0].endswith(") is ready.")
    assert any(line.endswith("./taos agent chat hello") for line in said)
    link = next(line.split()[1] for line in said if line.startswith("  web "))
    assert link.startswith(f"http://127.0.0.1:{person.settings.port}/setup?code=")
    assert httpx.get(link, timeout=30).status_code == 200
    person.wait_until_idle()

    server = server_pid(person.settings.server_socket)
    began = time.monotonic()
    again = person.taos("up", "hello")
    took = time.monotonic() - began
    assert again.returncode == 0, again.stdout + again.stderr
    assert "✓" not in again.stdout, "no job was begun"
    assert "starting" not in again.stdout
    assert summary_of(again.stdout)[0] == said[0]
    assert took < QUICK
    assert server_pid(person.settings.server_socket) == server

    listed = json.loads(person.taos("agent", "list", "--json").stdout)
    assert [(one["name"], one["state"]) for one in listed] == [("hello", "ready")]
    assert person.taos("agent", "delete", "hello").returncode == 0
    assert json.loads(person.taos("agent", "list", "--json").stdout) == []
    assert incus("list", "--format", "csv", project=person.settings.incus_project) == ""
    assert person.taos("stop").returncode == 0
    assert server_pid(person.settings.server_socket) is None


def summary_of(said: str) -> list[str]:
    """The lines from the one on that says how the agent is."""
    lines = said.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Agent hello "))
    return lines[start:]
