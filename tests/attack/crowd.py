"""Many connections that never become a request, from one address or from many.

They come from a process of their own, so that whoever measures the server is not slowed down.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# What each connection says before it falls silent, in turn.
HALVES = (
    b"",
    b"G",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
)
LINE = b"X: y\r\n"
NETWORK = ipaddress.ip_network("127.1.0.0/16")
AGAIN_AFTER = 0.2
# A crowd that nobody ends ends by itself, after so many seconds.
MOST_SECONDS = 120


@dataclass(frozen=True)
class Crowd:
    """`size` half-open connections to a port of loopback; each that is closed comes again.

    addresses: from how many addresses they come. trickle: seconds between two lines of each head.
    """

    port: int
    size: int
    addresses: int = 1
    trickle: float = 0


@dataclass(frozen=True)
class Told:
    """How many were open at the end, and how many were opened at all."""

    held: int
    opened: int


class Running:
    """A crowd that is there."""

    def __init__(self, crowd: Crowd) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attack.crowd", json.dumps(asdict(crowd))],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout
        assert self._process.stdout.readline() == "there\n"

    def end(self) -> Told:
        """End it."""
        said, _ = self._process.communicate("", timeout=20)
        return Told(**json.loads(said))

    def kill(self) -> None:
        """End it at once if it has not ended."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def crowded(crowd: Crowd) -> Iterator[Running]:
    """The crowd is there while this lasts."""
    running = Running(crowd)
    try:
        yield running
    finally:
        running.kill()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _run(crowd: Crowd) -> None:
    held: set[asyncio.StreamWriter] = set()
    opened = count()
    hosts = cycle(str(NETWORK[1 + number]) for number in range(crowd.addresses))
    halves = cycle(HALVES)

    async def trickle(writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            await asyncio.sleep(crowd.trickle)
            writer.write(LINE)

    async def one(host: str, half: bytes) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", crowd.port, local_addr=(host, 0)
                )
                next(opened)
                held.add(writer)
                try:
                    writer.write(half)
                    waits = [reader.read(), *([trickle(writer)] if crowd.trickle else [])]
                    await asyncio.gather(*waits)
                finally:
                    held.discard(writer)
                    writer.transport.abort()
            await asyncio.sleep(AGAIN_AFTER)

    tasks = [asyncio.create_task(one(next(hosts), next(halves))) for _ in range(crowd.size)]
    _say("there")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(sys.stdin.read), MOST_SECONDS)
    _say(json.dumps(asdict(Told(len(held), next(opened)))))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Be a crowd until standard input ends."""
    crowd = Crowd(**json.loads(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = crowd.size + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(most, wanted)))
    asyncio.run(_run(crowd))


def send_raw(port: int, said: bytes, within: float = 5, host: str = "127.0.0.1") -> bytes:
    """Everything that the server says to these bytes until it closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port), within, (host, 0)) as raw:
        raw.settimeout(within)
        raw.sendall(said)
        heard = b""
        with contextlib.suppress(OSError):
            while more := raw.recv(65536):
                heard += more
        return heard


if __name__ == "__main__":
    main()
