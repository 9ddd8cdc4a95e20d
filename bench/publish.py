"""Publishing: what it costs, `kill -9` in the middle of it, and python-tuf's client over HTTP."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tuf.ngclient import Updater

from bench.common import ROOT, keep
from tests.unit.factory.releases import make_image
from tinyagentos.factory.audit import verify_channel, verify_target
from tinyagentos.signing.channel import Channel, directory

SIZE = 110_000_000
KILLS, KILL_SIZE, KILL_WITHIN = 20, 30_000_000, 0.4


class Publisher:
    """The command line with keys and a channel of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.channel = home, home / "channel"
        self.env = os.environ | {"TAOS_DATA_DIR": str(home)}
        self.run("keys", "init")
        self.root = (home / "image-keys" / "1.root.json").read_bytes()

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tinyagentos.cli", "image", *argv],
            env=self.env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *argv: str) -> float:
        begun = time.perf_counter()
        process = self.start(*argv)
        process.communicate(timeout=120)
        assert process.returncode == 0, argv
        return round(time.perf_counter() - begun, 2)

    def publish(self, image: Path) -> list[str]:
        return ["publish", str(image), "--to", str(self.channel), "--keep", "1"]

    def image(self, size_bytes: int) -> Path:
        return make_image(Path(tempfile.mkdtemp(dir=self.home)), size_bytes=size_bytes)


def main() -> None:
    """Print the figures; raise when a client is ever without a whole release."""
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(Path(folder))
        figures = measure(publisher) | kill_often(publisher) | download(publisher)
    keep("publish", figures)


def measure(publisher: Publisher) -> dict[str, object]:
    """Publishing and verifying an image of the size of ours, against one SHA-256 of it."""
    image = publisher.image(SIZE)
    hashed = []
    for _ in range(3):
        begun = time.perf_counter()
        with image.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        hashed.append(time.perf_counter() - begun)
    root = ("--root", str(publisher.home / "image-keys" / "1.root.json"))
    return {
        "image_bytes": SIZE,
        "sha256_seconds": round(statistics.median(hashed), 2),
        "publish_seconds": publisher.run(*publisher.publish(image)),
        "verify_seconds": publisher.run("verify", str(publisher.channel), *root),
        "metadata_bytes": sum(one.stat().st_size for one in publisher.channel.glob("*.json")),
    }


def kill_often(publisher: Publisher) -> dict[str, object]:
    """Kill at random moments, some of them in the middle of a change of keys' publication."""
    killed, versions, halves = 0, set(), 0
    for number in range(KILLS):
        image = publisher.image(KILL_SIZE)
        if number % 4 == 3:
            publisher.run("keys", "rotate", random.choice(["root", "targets", "timestamp"]))
        process = publisher.start(*publisher.publish(image))
        assert process.stdout
        process.stdout.readline()  # it writes now
        time.sleep(random.uniform(0, KILL_WITHIN))
        process.kill()
        killed += process.wait() < 0
        halves += len(list(publisher.channel.glob(".*.part")))
        versions.add(read_whole(publisher))
    publisher.run(*publisher.publish(publisher.image(KILL_SIZE)))
    audit = verify_channel(publisher.channel, publisher.root)
    return {
        "killed": killed,
        "found_whole": KILLS,
        "versions_seen": len(versions),
        "half_files_seen": halves,
        "left_in_the_end": list(audit.others),
    }


def read_whole(publisher: Publisher) -> int:
    """The version that a new client reads, after all of it was verified."""
    with tempfile.TemporaryDirectory() as state:
        fetch = directory(publisher.channel)
        index = Channel(publisher.root, Path(state), fetch).refresh()
    for target in (*index.images, *index.documents):
        verify_target(publisher.channel / target.file_name, target)
    return index.version


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static server that says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def download(publisher: Publisher) -> dict[str, object]:
    """Everything by python-tuf's own client and network code, from a static server."""
    handler = functools.partial(Quiet, directory=str(publisher.channel))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    with tempfile.TemporaryDirectory() as state, tempfile.TemporaryDirectory() as files:
        client = Updater(state, url, files, url, bootstrap=publisher.root)
        client.refresh()
        index = verify_channel(publisher.channel, publisher.root).index
        names = [one.name for one in (*index.images, *index.documents)]
        for name in names:
            target = client.get_targetinfo(name)
            assert target
            client.download_target(target)
    server.shutdown()
    return {"downloaded_by_python_tuf": len(names)}


if __name__ == "__main__":
    main()
