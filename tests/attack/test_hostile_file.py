"""Files from anybody, given to a real server with the real Incus: refused, and nothing is left."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from bench.common import Server, incus, server
from tests.fakes.backup import entry, folder, pack, pack_volume
from tinyagentos.agents.bundle import AGENT_FILE, STATE_FILE
from tinyagentos.images.inspect import inspect_image
from tinyagentos.model.errors import Untrusted

pytestmark = [pytest.mark.incus, pytest.mark.timeout(240)]
V = "backup/volume/"


@pytest.fixture(scope="module")
def taos() -> Iterator[Server]:
    """A server of its own."""
    with server() as made:
        made.start()
        yield made


def write_bundle(path: Path, state: bytes, **more: object) -> Path:
    """A file as `taos agent export` writes it, but of another state."""
    told = {
        "format": 1, "name": "evil", "framework": "openclaw", "version": "1", "model": "",
        "network": "internet", "memory_bytes": "", "cpus": "", "size": len(state),
        "sha256": hashlib.sha256(state).hexdigest(), **more,
    }  # fmt: skip
    members = {STATE_FILE: state, AGENT_FILE: json.dumps(told).encode()}
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def import_file(taos: Server, path: Path, **more: object) -> dict[str, object]:
    """The job that imported the file, when it has ended."""
    answer = taos.http.post("/api/files/agents/import", json={"path": str(path), **more})
    answer.raise_for_status()
    return taos.wait(answer.json()["job"]["id"])


def kept(taos: Server) -> list[str]:
    return [one["name"] for one in taos.http.get("/api/kept").json()]


@contextlib.contextmanager
def disk_of_the_host(folder: Path) -> Iterator[tuple[int, int]]:
    """The number of a block device whose content nobody but the host may see."""
    image = folder / "disk.img"
    image.write_bytes(b"HOST SECRET" + bytes(1 << 20))
    found = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    )
    device = found.stdout.strip()
    try:
        number = Path(device).stat().st_rdev
        yield os.major(number), os.minor(number)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_disk_of_the_host_in_a_home_is_refused(taos: Server, tmp_path: Path) -> None:
    with disk_of_the_host(tmp_path) as (major, minor):
        node = entry(V + "disk", tarfile.BLKTYPE, devmajor=major, devminor=minor, mode=0o666)
        file = write_bundle(tmp_path / "evil.taos", gzip.compress(pack_volume({}, node)))
        job = import_file(taos, file)
    assert job["state"] == "failed"
    assert "a block device" in str(job["error"])
    assert kept(taos) == []


HOSTILE: dict[str, bytes] = {
    "a character device": pack_volume(
        {}, entry(V + "mem", tarfile.CHRTYPE, devmajor=1, devminor=1)
    ),
    "a link to the host's files": pack_volume(
        {}, entry(V + "a", tarfile.LNKTYPE, linkname="/etc/shadow")
    ),
    "a file through a link": pack_volume(
        {}, entry(V + "a", tarfile.SYMTYPE, linkname="/etc"), entry(V + "a/taos-evil")
    ),
    "a file outside": pack_volume({}, entry(V + "../../../../../../../etc/taos-evil")),
    "a btrfs stream": pack_volume({}, entry("backup/volume.bin", content=b"btrfs-stream\0")),
    "an index that ends Incus": pack_volume(
        {}, index="name: x\ntype: custom\nsnapshots:\n- s\nconfig:\n  volume_snapshots:\n  - null\n"
    ),
    "two archives": pack_volume({})
    + pack_volume({}, entry(V + "sda", tarfile.BLKTYPE, devmajor=8)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_state_is_refused(what: str, taos: Server, tmp_path: Path) -> None:
    job = import_file(taos, write_bundle(tmp_path / "evil.taos", gzip.compress(HOSTILE[what])))
    assert job["state"] == "failed"
    assert '"untrusted"' in json.dumps(job["error"])
    assert kept(taos) == []
    assert not Path("/etc/taos-evil").exists()
    incus("info")  # it is still there


def test_a_file_gets_no_walls_and_no_memory_of_its_own_choice(taos: Server, tmp_path: Path) -> None:
    state = gzip.compress(pack_volume({}))
    asks = write_bundle(tmp_path / "a.taos", state, nesting=True, network="lan:192.168.9.0/24")
    large = write_bundle(tmp_path / "b.taos", state, memory_bytes=str(1 << 40))
    for path, status in ((asks, 422), (large, 507)):
        answer = taos.http.post("/api/files/agents/import", json={"path": str(path)})
        assert answer.status_code == status, answer.text
    deploy = {"name": "big", "memory": "1024GiB"}
    assert taos.http.post("/api/agents/deploy", json=deploy).status_code == 507
    assert kept(taos) == []


def make_home(home: Path) -> None:
    """What an agent may leave behind, made as its user where that matters."""
    deep = home / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    (home / "absolute").symlink_to("/etc/passwd")
    (home / "new\nline").write_text("x")
    Path(os.fsdecode(os.fsencode(home) + b"/bytes\xff\xfe")).write_text("x")
    os.mkfifo(home / "fifo")
    os.mknod(home / "removed", 0o20644, os.makedev(0, 0))
    (home / "first").write_text("linked")
    os.link(home / "first", home / "second")
    with (home / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    (home / "suid").write_text("#!/bin/sh\n")
    (home / "suid").chmod(0o4755)
    (home / "group").mkdir()
    (home / "group").chmod(0o2775)
    os.setxattr(home / "first", "user.note", b"\xff\0=\n")
    os.setxattr(home / "suid", "security.capability", bytes.fromhex("01000002ff" + "00" * 15))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(home / "socket"))


def test_all_that_an_agent_leaves_comes_back_without_its_rights(
    taos: Server, tmp_path: Path
) -> None:
    name = incus(
        "profile", "device", "get", "default", "root", "pool", project=taos.project
    ).strip()
    incus("storage", "volume", "create", name, "home", project=taos.project)
    volumes = Path(f"/var/lib/incus/storage-pools/{name}/custom")
    make_home(volumes / f"{taos.project}_home")
    backup = tmp_path / "home.tgz"
    incus(
        "storage", "volume", "export", name, "home", str(backup), "--volume-only",
        "--compression", "gzip", project=taos.project,
    )  # fmt: skip
    job = import_file(taos, write_bundle(tmp_path / "home.taos", backup.read_bytes()))
    assert job["state"] == "succeeded", job
    [volume] = kept(taos)
    home = volumes / f"{taos.project}_{volume}"
    assert (home / ("d" * 200) / ("e" * 200) / "file").read_text() == "deep"
    assert (home / "absolute").readlink() == Path("/etc/passwd")
    assert (home / "new\nline").read_text() == "x"
    assert Path(os.fsdecode(os.fsencode(home) + b"/bytes\xff\xfe")).read_text() == "x"
    assert (home / "fifo").is_fifo()
    assert (home / "removed").stat().st_rdev == 0
    assert (home / "second").samefile(home / "first")
    assert (home / "sparse").stat().st_size == (64 << 20) + 3
    assert (home / "suid").stat().st_mode & 0o7777 == 0o755
    assert (home / "group").stat().st_mode & 0o7777 == 0o775
    assert os.getxattr(home / "first", "user.note") == b"\xff\0=\n"
    assert os.listxattr(home / "suid") == []
    assert not (home / "socket").exists()
    listed = incus("storage", "volume", "list", name, "--format", "json", project=taos.project)
    [config] = [one["config"] for one in json.loads(listed) if one["name"] == volume]
    assert set(config) <= {"user.taos.kept", "user.taos.agent", "user.taos.framework"}


def test_an_image_with_a_disk_of_the_host_is_refused(tmp_path: Path) -> None:
    node = entry("rootfs/zz", tarfile.BLKTYPE, devmajor=8, mode=0o666)
    head = entry("metadata.yaml", content=b"architecture: x86_64\n")
    file = tmp_path / "evil.tar.zst"
    file.write_bytes(zstandard.compress(pack((head, folder("rootfs"), node))))
    with pytest.raises(Untrusted):
        inspect_image(file)
    ended = subprocess.run(
        ["./taos", "image", "import", str(file)], capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "device node" in ended.stderr + ended.stdout
