"""What is free for agents: the pool, or what the disk under its file has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.fake_incus import FakeIncus
from tinyagentos.config import Settings
from tinyagentos.host.check import Ground, Verdict
from tinyagentos.host.checks.pool import find_little_room
from tinyagentos.host.facts import HostFacts
from tinyagentos.host.room import HOST_FLOOR, LITTLE, MIB, Room, folder_below, read_room
from tinyagentos.incus import Incus, StoragePool

GIB = 1024 * MIB
BELOW = Path("/disks")
FACTS = HostFacts("debian", "bookworm", "x64", False, True, 8 << 30, 50 << 30, "ext4")


def pool(source: str) -> StoragePool:
    return StoragePool("taos", "btrfs", "Created", "", {"source": source}, ())


@pytest.mark.parametrize(
    ("below", "free", "said"),
    [
        (None, 13 * GIB, "Storage pool taos has 13312 MiB free"),
        (50 * GIB, 13 * GIB, "Storage pool taos has 13312 MiB free"),
        (HOST_FLOOR + 200 * MIB, 200 * MIB, "The disk under storage pool taos (/disks) has 712"),
        (200 * MIB, 0, "The disk under storage pool taos (/disks) has 200 MiB free, of which 512"),
        (0, 0, "The disk under storage pool taos (/disks) has 0 MiB free"),
    ],
)
def test_the_lesser_of_both_is_free(below: int | None, free: int, said: str) -> None:
    room = Room("taos", 7 * GIB, 20 * GIB, (below is not None and BELOW) or None, below)
    assert room.free_bytes == free
    assert room.said.startswith(said)
    assert ("that disk of the host" in room.hint) == (free < 13 * GIB)


def test_a_file_or_a_folder_is_on_a_disk_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "taos.img").touch()
    assert folder_below(pool(str(tmp_path / "taos.img"))) == tmp_path
    assert folder_below(pool(str(tmp_path))) == tmp_path
    for other in ("", "taos", "/dev/null", str(tmp_path / "gone")):
        assert folder_below(pool(other)) is None


@pytest.mark.parametrize(
    ("below", "verdict"),
    [(LITTLE, None), (LITTLE - 1, Verdict.warn), (HOST_FLOOR, Verdict.fail), (0, Verdict.fail)],
)
async def test_doctor_tells_of_a_disk_that_is_nearly_full(
    below: int, verdict: Verdict | None, tmp_path: Path
) -> None:
    (tmp_path / "taos.img").touch()
    async with FakeIncus(tmp_path / "incus.sock") as fake:
        fake.pools["taos"]["config"]["source"] = str(tmp_path / "taos.img")
        ground = Ground(Settings(data_dir=tmp_path, incus_socket=fake.socket), FACTS)
        found = await find_little_room("taos", ground, lambda _: below)
        assert (found and found.verdict) == verdict
        if found:
            assert str(tmp_path) in found.said
            assert f"{below // MIB} MiB free" in found.said


async def test_the_room_is_read_of_incus_and_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "taos.img").touch()
    async with FakeIncus(tmp_path / "incus.sock") as fake, Incus.unix(fake.socket) as incus:
        assert (await read_room(incus, "taos")).below is None
        fake.pools["taos"]["config"]["source"] = str(tmp_path / "taos.img")
        room = await read_room(incus, "taos", lambda folder: GIB if folder == tmp_path else 0)
        assert room.free_bytes == GIB - HOST_FLOOR
