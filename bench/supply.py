"""Getting images: `python -m bench.supply [IMAGE.tar.zst] [PART …]`, an image by `taos image build`.

Parts: health (the server's start beside bad mirrors), fastest (the three sources of a deploy on an
empty host, at four speeds of the line), kill (50 times in the middle of downloads), cost (memory and
hashing). Without an image one is built first, the fast way. The mirror is on the loopback.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bench.common import RESULTS, ROOT, Server, incus, keep, server
from bench.mirror import mirror
from tinyagentos.images.fetch import find_good_parts
from tinyagentos.images.verify import _read
from tinyagentos.model.release import ImageTarget

MBIT = 1e6 / 8
SPEEDS = (5, 20, 50, 200)
SOURCES = ("image", "build", "fastest")
KILLS, KILL_RATE = 50, 160 * MBIT
CHUNK = 4 << 20
PARTS = ("health", "fastest", "kill", "cost")


class Channel:
    """A published image in a folder, and the root to trust."""

    def __init__(self, home: Path, image: Path) -> None:
        self.folder = home / "channel"
        env = os.environ | {"TAOS_DATA_DIR": str(home), "TAOS_SIGNING_PASSPHRASE": "bench"}
        for argv in (["keys", "init"], ["publish", str(image), "--to", str(self.folder)]):
            subprocess.run(
                [sys.executable, "-m", "tinyagentos.cli", "image", *argv],
                env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
        self.root = home / "image-keys" / "1.root.json"
        self.size = max(one.stat().st_size for one in self.folder.iterdir())


@contextmanager
def empty_host(channel: Channel, url: str, **settings: str) -> Iterator[Server]:
    """A server that has no image, no base, no caches and has measured nothing."""
    with server(TAOS_IMAGE_CHANNEL=url, TAOS_IMAGE_ROOT=str(channel.root), **settings) as taos:
        yield taos


def main() -> None:
    """Run the parts and keep the figures."""
    argv = sys.argv[1:]
    parts = [one for one in argv if one in PARTS] or list(PARTS)
    given = [Path(one).resolve() for one in argv if one not in PARTS]
    kept = RESULTS / "supply.json"
    figures = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as home:
        channel = Channel(Path(home), given[0] if given else build_image(Path(home)))
        figures["image_mb"] = round(channel.size / 1e6, 1)
        for part in parts:
            figures[part] = globals()[f"measure_{part}"](channel)
            keep("supply", figures)


def build_image(home: Path) -> Path:
    """An image made on this machine, the fast way."""
    subprocess.run(
        [sys.executable, "-m", "tinyagentos.cli", "image", "build", "openclaw", "--fast",
         "--out", str(home / "made")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return next((home / "made").glob("*.tar.zst"))


def measure_health(channel: Channel) -> dict[str, object]:
    """Process start to the first health, with a mirror that is in trouble, policy `background`."""
    rows = {}
    for mode in ("stall", "garbage", "refusing", "absent"):
        seconds = []
        for _ in range(5):
            with mirror(channel.folder, mode=mode) as web:
                url = {"refusing": "http://127.0.0.1:9", "absent": ""}.get(mode, web.url)
                with empty_host(channel, url, TAOS_IMAGE_POLICY="background") as taos:
                    seconds.append(round(taos.start(), 3))
                    begun = time.monotonic()
                    taos.stop()
                    stop = round(time.monotonic() - begun, 2)
        rows[mode] = {
            "seconds": seconds, "median": statistics.median(seconds), "last_stop": stop
        }  # fmt: skip
    return rows | {"limit": 1.5}


def measure_fastest(channel: Channel) -> dict[str, object]:
    """The first deploy on an empty host by each source, at each speed, side by side."""
    rows = {}
    for speed in SPEEDS:
        row: dict[str, object] = {}
        for source in SOURCES:
            with (
                mirror(channel.folder, speed * MBIT) as web,
                empty_host(channel, web.url) as taos,
            ):
                taos.start()
                begun = time.monotonic()
                job = taos.wait(taos.deploy("first", source)["id"], within=900)
                row[source] = round(time.monotonic() - begun, 1)
                assert job["state"] == "succeeded", job
                if source == "fastest":
                    row["took"], row["reason"] = job["source"], job["source_reason"]
                    row["steps"] = {one["name"]: one["seconds"] for one in job["steps"]}
                if taos.http.get("/api/jobs").json():
                    for one in taos.http.get("/api/jobs").json():
                        if one["state"] in ("running", "queued"):
                            taos.http.post(f"/api/jobs/{one['id']}/cancel")
                taos.wait_all()
        row["ratio"] = round(row["fastest"] / min(row["image"], row["build"]), 3)  # type: ignore[operator,type-var]
        rows[f"{speed} Mbit/s"] = row
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows | {"limit": 1.10}


def measure_kill(channel: Channel) -> dict[str, object]:
    """kill -9 at random moments of a download and import, until it has been done 50 times."""
    kills, downloads, states, strays = 0, 0, {}, []
    worst = 0.0
    with mirror(channel.folder, KILL_RATE) as web, empty_host(channel, web.url) as taos:
        while kills < KILLS:
            sent, killed = web.sent, 0
            taos.start()
            job_id = taos.http.post("/api/images/openclaw/download").json()["job"]["id"]
            while kills < KILLS:
                time.sleep(random.uniform(0.0, 4.0))
                job = taos.job(job_id)
                if job["state"] == "succeeded":
                    break
                running = [one["name"] for one in job["steps"] if one["state"] == "running"]
                at = running[-1] if running else "between"
                states[at] = states.get(at, 0) + 1
                taos.kill()
                kills, killed = kills + 1, killed + 1
                taos.start()
            job = taos.wait(job_id)
            assert job["state"] == "succeeded", job
            downloads += 1
            twice = web.sent - sent - channel.size
            worst = max(worst, twice / max(1, killed))
            images = json.loads(incus("image", "list", "--format", "json", project=taos.project))
            left = [str(one) for one in (taos.folder / "data" / "cache").rglob("*.part")]
            instances = incus("list", "--format", "csv", project=taos.project).split()
            if len(images) != 1 or left or instances:
                strays.append([len(images), left, instances])
            for one in images:
                incus("image", "delete", one["fingerprint"], project=taos.project)
            taos.stop()
    return {
        "kills": kills, "downloads": downloads, "killed_in": states, "strays": strays,
        "fetched_twice_mib_per_kill_worst": round(worst / (1 << 20), 2), "limit_mib": 4,
    }  # fmt: skip


def measure_cost(channel: Channel) -> dict[str, object]:
    """Memory of the server above idle while it fetches and imports; the speed of hashing."""
    rows: dict[str, object] = {}
    with mirror(channel.folder) as web, empty_host(channel, web.url) as taos:
        taos.start()
        assert taos.process
        proc = Path(f"/proc/{taos.process.pid}")
        taos.http.get("/api/images")
        time.sleep(2)
        idle = memory(proc, "VmRSS")
        (proc / "clear_refs").write_text("5")
        job = taos.wait(taos.http.post("/api/images/openclaw/download").json()["job"]["id"])
        assert job["state"] == "succeeded", job
        rows["idle_mib"] = idle
        rows["above_idle_mib"] = round(memory(proc, "VmHWM") - idle, 1)
        rows["steps"] = {one["name"]: one["seconds"] for one in job["steps"]}
    rows["limit_mib"] = 40
    return rows | measure_hashing()


def measure_hashing() -> dict[str, object]:
    """Proving a file part by part, and as a whole: megabytes per second of processor time."""
    size = 1 << 30
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        parts = []
        for _ in range(size // CHUNK):
            piece = random.randbytes(CHUNK)
            parts.append(hashlib.sha256(piece).hexdigest())
            file.write(piece)
        file.flush()
        target = ImageTarget(
            framework="x", version="1", arch="x64", fingerprint="0" * 64, size_bytes=size,
            unpacked_bytes=1, chunk_bytes=CHUNK, chunks=tuple(parts), recipe="0" * 64,
            released=datetime(2026, 1, 1, tzinfo=UTC), sequence=1,
        )  # fmt: skip
        path = Path(file.name)

        def speed(begun: float) -> int:
            return round(size / 1e6 / (cpu() - begun))

        begun = cpu()
        assert len(find_good_parts(path, target)) == len(parts)
        by_part = speed(begun)
        begun = cpu()
        _read(path)
        return {"hash_parts_mb_s": by_part, "hash_whole_mb_s": speed(begun), "limit_mb_s": 300}


def cpu() -> float:
    """Processor seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(proc: Path, what: str) -> float:
    """A row of /proc/PID/status, in MiB."""
    line = next(one for one in (proc / "status").read_text().splitlines() if one.startswith(what))
    return round(int(line.split()[1]) / 1024, 1)


if __name__ == "__main__":
    main()
