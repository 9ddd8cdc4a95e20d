"""Process start to the first 200 of /api/health: Incus stopped, network unreachable."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from bench.common import Server, keep


def main() -> None:
    """Start the server seven times in a network namespace with nothing in it."""
    seconds = []
    for _ in range(7):
        with tempfile.TemporaryDirectory() as folder:
            server = Server(
                Path(folder), "taos", TAOS_INCUS_SOCKET=str(Path(folder) / "no-incus.sock")
            )
            seconds.append(round(server.start("unshare", "--net"), 3))
            assert server.http.get("/api/ready").status_code == 503
            server.stop()
    figures = {"seconds": seconds, "median": statistics.median(seconds), "limit": 1.5}
    keep("startup", figures)


if __name__ == "__main__":
    main()
