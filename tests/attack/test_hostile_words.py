"""An agent, or a neighbour, whose words are to reach the owner's terminal or fill the host's disk.

The server is real, and started as it is without systemd: its output goes to `server.log`. It needs
no Incus for this.
"""

from __future__ import annotations

import contextlib
import os
import pty
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.hostile import EVIL, assert_harmless
from tinyagentos.model.job import Job, JobState, Problem, Step, StepState
from tinyagentos.store.database import Database
from tinyagentos.store.jobs import JobTable

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
WITHIN = 30.0
TIMES = 700
# For each attack: what is sent to the gateway, which an agent reaches without any token.
TO_GATEWAY = {
    "token": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xc3\xa9\xff.\xe9\r\n"
    b"Connection: close\r\n\r\n",
    "key": b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: \xff.\xe9\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n",
    "lengths": b"POST /v1/messages HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": b"POST /v1/messages HTTP/1.1\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "no chunk": b"POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "long head": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "escapes": b"GET /\x1b]0;owned\x07 HTTP/1.1\r\nX\x1b[2J: \x9b\r\n\r\n",
    "deep": b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n"
    b"Connection: close\r\n\r\n" + b"[" * 40_000,
}
HEAD = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
# And to the API, from the local network.
TO_API = {
    "half an address": b"POST /login" + HEAD + b"Origin: http://[\r\nContent-Length: 0\r\n\r\n",
    "no text": b"GET /\xff"
    + HEAD
    + b"Authorization: Bearer \xff\r\nCookie: taos_session=\xe9\r\n\r\n",
    "next": b"GET /login?next=%ff//[" + HEAD + b"Accept: text/html\r\n\r\n",
    "code": b"GET /setup?code=%ff%1b]0;x" + HEAD + b"Accept: text/html\r\n\r\n",
    "form": b"POST /login" + HEAD + b"Origin: http://127.0.0.1\r\n"
    b"Content-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\n\xff\xfe\xff",
    "lengths": b"POST /login" + HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "socket": b"GET /api/agents/a/shell HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \xff\r\n\r\n",
}


@dataclass(frozen=True)
class Taos:
    """A server, and the command line with its settings."""

    folder: Path
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        return self.folder / "data" / "server.log"

    @property
    def gateway(self) -> Path:
        return next(self.folder.rglob("gateway*.sock"))

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.environment["TAOS_PORT"])

    def on_terminal(self, *argv: str) -> str:
        """What the command writes to a terminal."""
        master, slave = pty.openpty()
        with os.fdopen(master, "rb", 0) as terminal:
            process = subprocess.Popen(
                [sys.executable, "-m", "tinyagentos.cli", *argv],
                cwd=ROOT, env=self.environment, stdin=slave, stdout=slave, stderr=slave,
            )  # fmt: skip
            os.close(slave)
            said = b""
            with contextlib.suppress(OSError):  # so a terminal ends
                while piece := terminal.read(4096):
                    said += piece
            process.wait(WITHIN)
        return said.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def taos() -> Iterator[Taos]:
    """A server without Incus whose last deploy failed with an agent's words."""
    with tempfile.TemporaryDirectory(prefix="taos-attack-") as name:
        folder = Path(name)
        (folder / "data").mkdir(mode=0o700)
        seed(folder / "data" / "taos.db")
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT), "TAOS_DATA_DIR": str(folder / "data"), "TERM": "xterm",
            "TAOS_RUN_DIR": str(folder / "run"), "TAOS_INCUS_SOCKET": str(folder / "none.sock"),
            "TAOS_PORT": str(free_port()),
        }  # fmt: skip
        made = Taos(folder, environment)
        with made.log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tinyagentos.cli", "serve"],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        try:
            until = time.monotonic() + WITHIN
            while "web pages loaded" not in made.log.read_text():
                assert time.monotonic() < until, made.log.read_text()
                time.sleep(0.05)
            yield made
        finally:
            process.terminate()
            process.wait(WITHIN)


def seed(database: Path) -> None:
    """Keep a job of which every text that comes from elsewhere is evil."""
    now = datetime.now(UTC)
    kept = Database(database)
    JobTable(kept).add(
        Job(
            "evil", "deploy", "agent:lost", now, JobState.failed,
            source="image", source_reason=EVIL, params={"framework": "openclaw"},
            steps=(Step("wait until ready", StepState.failed, now, 1.0, detail=EVIL),),
            started_at=now, finished_at=now, attempt=1,
            error=Problem("not_ready", f"It ended.\n{EVIL}", EVIL),
        )
    )  # fmt: skip
    kept.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("argv", [("job", "show"), ("job", "watch")])
def test_an_agents_words_do_not_steer_the_terminal(taos: Taos, argv: tuple[str, ...]) -> None:
    said = taos.on_terminal(*argv, "evil")
    assert "It ended." in said
    assert "\\x1b]0;owned\\x07" in said
    assert_harmless(said, terminal=True)


def test_nor_in_a_list(taos: Taos) -> None:
    assert_harmless(taos.on_terminal("job", "list"), terminal=True)


def send(where: Path | tuple[str, int], words: bytes) -> None:
    """Say something to the server and read the beginning of its answer, if there is one."""
    is_local = isinstance(where, Path)
    with socket.socket(socket.AF_UNIX if is_local else socket.AF_INET) as connection:
        connection.settimeout(2)
        connection.connect(str(where) if is_local else where)
        with contextlib.suppress(OSError):
            connection.sendall(words)
            connection.recv(1024)


def test_no_flood_without_a_token_fills_the_log(taos: Taos) -> None:
    before = taos.log.stat().st_size
    for words in TO_GATEWAY.values():
        for _ in range(TIMES):
            send(taos.gateway, words)
    for words in TO_API.values():
        for _ in range(TIMES // 10):
            send(taos.address, words)
    said = taos.log.read_bytes()[before:].decode()
    assert "Traceback" not in said
    assert_harmless(said)
    assert len(said) < 50_000, said[:5000]


def test_what_is_no_http_is_answered_and_the_server_goes_on(taos: Taos) -> None:
    for words in TO_GATEWAY.values():
        send(taos.gateway, words + secrets.token_bytes(2000))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        connection.connect(str(taos.gateway))
        connection.sendall(TO_GATEWAY["token"])
        assert connection.recv(1024).startswith(b"HTTP/1.1 401 ")
    assert "Traceback" not in taos.log.read_text()
