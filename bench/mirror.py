"""A channel's web server in a process of its own: `python -m bench.mirror FOLDER RATE MODE`.

RATE: bytes a second for all connections together, 0: as fast as it goes. MODE: serve, stall,
garbage. It prints its port; `GET /_sent` tells how many bytes of images it sent.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

PIECE = 16 << 10


class Mirror:
    def __init__(self, folder: Path, rate: int, mode: str) -> None:
        self.folder, self.rate, self.mode = folder, rate, mode
        self.sent = 0
        self.free_at = 0.0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name == "_sent":
            return web.Response(text=str(self.sent))
        if self.mode == "stall":
            await asyncio.sleep(3600)
        if self.mode == "garbage":
            return web.Response(body=b"\0\1garbage" * 100)
        path = self.folder / name
        if not path.is_file():
            return web.Response(status=404)
        size = path.stat().st_size
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        answer = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        if answer.status == 206:
            answer.headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        answer.content_length = size - start
        await answer.prepare(request)
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(PIECE if self.rate else 1 << 20):
                if self.rate:
                    now = time.monotonic()
                    self.free_at = max(self.free_at, now) + len(piece) / self.rate
                    await asyncio.sleep(self.free_at - now)
                await answer.write(piece)
                if size > 1 << 20:
                    self.sent += len(piece)
        return answer


async def main(folder: str, rate: str, mode: str) -> None:
    app = web.Application()
    app.router.add_get("/{name}", Mirror(Path(folder), int(rate), mode).serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.sleep(3 * 3600)


class Running:
    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def sent(self) -> int:
        with urllib.request.urlopen(f"{self.url}/_sent", timeout=10) as answer:
            return int(answer.read())


@contextmanager
def mirror(folder: Path, rate: float = 0, mode: str = "serve") -> Iterator[Running]:
    """Serve the folder; rate in bytes a second."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.mirror", str(folder), str(int(rate)), mode],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        yield Running(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
