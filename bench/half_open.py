"""Half-open connections against the API: 3,000 that never become a request, at 1,024 files.

Run with the folder of another checkout to have both measured in one run. They come from one
address, from a thousand, and say a line of their head now and then; one that is closed comes again.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from bench.common import ROOT, Server, keep
from bench.web import find_address
from tests.attack.crowd import Crowd, crowded

SIZE = 3000
FILES = 1024
LASTS = 15.0
ASKED_WITHIN = 5.0
CROWDS = {
    "from one address": {"addresses": 1},
    "from 1000 addresses": {"addresses": 1000},
    "from 1000 addresses, a line every 2 s": {"addresses": 1000, "trickle": 2.0},
}


def main() -> None:
    """Measure this checkout, and the other one if there is one."""
    roots = {"this": ROOT, **({"other": Path(sys.argv[1])} if len(sys.argv) > 1 else {})}
    keep("half_open", {
        "connections": SIZE, "files": FILES, "seconds_each": LASTS,
        "limits": {"health_median": 1.0, "unix_socket_median": 1.0, "log_growth_kb": 100},
        "crowds": {
            name: {which: measure(root, how) for which, root in roots.items()}
            for name, how in CROWDS.items()
        },
    })  # fmt: skip


def measure(root: Path, how: dict[str, float]) -> dict[str, object]:
    """What the checkout's server answers while the crowd is there."""
    with server_without_incus(root, FILES) as taos:
        crowd = Crowd(port_of(taos), SIZE, **how)  # type: ignore[arg-type]
        with crowded(crowd) as running:
            return {**ask_both(taos, LASTS), **asdict(running.end())}


@contextlib.contextmanager
def server_without_incus(root: Path, files: int) -> Iterator[Server]:
    """A checkout's server that can open so many files; it has an Incus neither now nor later."""
    with tempfile.TemporaryDirectory(prefix="taos-half-open-") as name:
        folder = Path(name)
        taos = Server(folder, "none", root, TAOS_INCUS_SOCKET=str(folder / "no-incus.sock"))
        try:
            taos.start("prlimit", f"--nofile={files}:{files}")
            yield taos
        finally:
            taos.kill()


def port_of(taos: Server) -> int:
    """The port of its API."""
    return int(find_address(taos).rpartition(":")[2])


def ask_both(taos: Server, lasts: float) -> dict[str, object]:
    """Ask /api/health for so many seconds over the address and over the Unix socket, in turn."""
    log = taos.folder / "server.log"
    before, until = log.stat().st_size, time.monotonic() + lasts
    over_tcp: list[float] = []
    over_unix: list[float] = []
    while time.monotonic() < until:
        over_tcp.append(time_of(lambda: ask_tcp(port_of(taos))))
        over_unix.append(time_of(lambda: ask_unix(taos)))
        time.sleep(0.1)
    return {
        "health": told(over_tcp), "unix_socket": told(over_unix),
        "log_growth_kb": round((log.stat().st_size - before) / 1000, 1),
    }  # fmt: skip


def time_of(ask: Callable[[], int]) -> float:
    """Seconds until the answer; infinite when there is none in time."""
    begun = time.monotonic()
    try:
        assert ask() == 200
    except Exception:
        return float("inf")
    return time.monotonic() - begun


def ask_tcp(port: int) -> int:
    """The status of /api/health, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASKED_WITHIN)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status
    finally:
        connection.close()


def ask_unix(taos: Server) -> int:
    """The status of what needs a token elsewhere, over the Unix socket."""
    return taos.http.get(
        "/api/jobs", timeout=ASKED_WITHIN, headers={"Connection": "close"}
    ).status_code


def told(seconds: list[float]) -> dict[str, object]:
    """Median, worst and how many had no answer, of those that were asked."""
    return {
        "asked": len(seconds), "unanswered": seconds.count(float("inf")),
        "median": round(statistics.median(seconds), 4), "worst": round(max(seconds), 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
