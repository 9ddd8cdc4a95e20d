"""Images on the real thing: signed files of a channel come into Incus, one takes over from another.

The image is a tiny one, so that what is tested is the way and not the size.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.common import Server, incus, names, server
from bench.mirror import mirror
from tests.fakes.publisher import Publisher
from tinyagentos.host.facts import host_arch

pytestmark = [pytest.mark.incus, pytest.mark.e2e]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


def download(taos: Server) -> dict[str, object]:
    return taos.wait(taos.http.post("/api/images/openclaw/download").json()["job"]["id"])


def images(taos: Server) -> dict[str, list[str]]:
    """The images of the project and their aliases."""
    listed = json.loads(incus("image", "list", "--format", "json", project=taos.project))
    return {one["fingerprint"]: [alias["name"] for alias in one["aliases"]] for one in listed}


def test_an_image_comes_and_a_newer_one_takes_over(publisher: Publisher) -> None:
    alias = f"openclaw/{host_arch()}"
    first = publisher.publish("1.0.0", 1_000_000)
    with server(**publisher.settings) as taos:
        taos.start()
        job = download(taos)
        assert job["state"] == "succeeded", job["error"]
        assert images(taos) == {first: [alias]}
        second = publisher.publish("2.0.0", 2_000_000)
        job = download(taos)
        assert job["state"] == "succeeded", job["error"]
        assert images(taos) == {second: [alias]}
        assert names("list", taos.project) == []
        [row] = [one for one in taos.http.get("/api/images").json() if one["alias"] == alias]
        assert (row["state"], row["version"], row["fingerprint"]) == ("ready", "2.0.0", second)
        stick = str(publisher.home / "stick.taos")
        body = {"framework": "openclaw", "path": stick}
        job = taos.wait(taos.http.post("/api/images/file/export", json=body).json()["job"]["id"])
        assert job["state"] == "succeeded", job["error"]
        assert taos.http.delete("/api/images/openclaw").status_code == 204
        assert images(taos) == {}
        answer = taos.http.post("/api/images/file/import", json={"path": stick})
        job = taos.wait(answer.json()["job"]["id"])
        assert job["state"] == "succeeded", job["error"]
        assert images(taos) == {second: [alias]}


def test_a_full_disk_is_said_and_deploys_go_on(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish("1.0.0", 60_000_000)
    with (
        small_disk(tmp_path, 750) as disk,
        mirror(publisher.folder, 20_000_000) as web,
        server(
            **(publisher.settings | {"TAOS_IMAGE_CHANNEL": web.url}),
            TAOS_DATA_DIR=str(disk / "data"),
        ) as taos,
    ):
        taos.start()
        job_id = taos.http.post("/api/images/openclaw/download").json()["job"]["id"]
        part = disk / "data" / "cache" / "images"
        while not any(one.stat().st_size > 10_000_000 for one in part.glob("*.part")):
            assert taos.job(job_id)["state"] in ("queued", "running"), taos.job(job_id)
        fill(disk)
        job = taos.wait(job_id, within=20)
        assert job["state"] == "failed"
        assert job["error"]["code"] == "no_space"
        assert "removed to give back the room" in job["error"]["message"]
        assert list(part.glob("*.part")) == []
        assert taos.http.get("/api/health").status_code == 200
        assert images(taos) == {}
        (disk / "filler").unlink()
        deploy = taos.deploy("hello", "build")
        assert taos.http.post(f"/api/jobs/{deploy['id']}/cancel").status_code == 202
        assert taos.wait(deploy["id"], within=30)["state"] == "cancelled"
        job = download(taos)
        assert job["state"] == "succeeded", job["error"]
        taos.stop()


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """A file system of that size in a file."""
    image, disk = folder / "disk.img", folder / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> None:
    """Take all of the disk's room."""
    with (disk / "filler").open("wb") as file:
        piece = b"\0" * (1 << 20)
        try:
            while True:
                file.write(piece)
                file.flush()
        except OSError:
            return
