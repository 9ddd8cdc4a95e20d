"""Limits with real bytes: what an agent writes stops at the size of its state volume."""

from __future__ import annotations

import pytest

from tests.fakes.fixtures import Backend
from tests.fakes.tiny_image import TinyImage
from tinyagentos.incus import InstanceRequest

pytestmark = pytest.mark.incus
MIB = 1 << 20


async def write(backend: Backend, name: str, mib: int) -> bool:
    """Whether so much fits into the file of the state."""
    argv = ("busybox", "dd", "if=/dev/urandom", f"of=/home/{name}", "bs=1M", f"count={mib}",
            "conv=fsync")  # fmt: skip
    result = await backend.incus.instances.exec("a", argv, within=60)
    assert not result.exit_code or b"quota exceeded" in result.stderr, result.stderr
    return result.exit_code == 0


async def test_a_full_state_stops_at_its_limit_and_a_higher_one_counts_at_once(
    real_incus: Backend, tiny_image: TinyImage
) -> None:
    incus, pool = real_incus.incus, real_incus.pool
    driver = (await incus.storage.get_pool(pool)).driver
    assert driver in ("btrfs", "zfs"), "the host needs the pool that `taos setup` makes"
    await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
    await incus.storage.create_volume(pool, "a-state", config={"size": str(64 * MIB)})
    state = {"type": "disk", "pool": pool, "source": "a-state", "path": "/home"}
    request = InstanceRequest(
        name="a", image=tiny_image.fingerprint, devices={"state": state},
        config={"security.idmap.isolated": "true"},
    )  # fmt: skip
    await incus.instances.create(request, start=True)
    assert await write(real_incus, "one", 40)
    assert not await write(real_incus, "two", 100)
    assert await incus.storage.get_volume_usage(pool, "a-state") <= 64 * MIB
    # All that taOS does with a state goes on with a full one.
    await incus.storage.create_volume_snapshot(pool, "a-state", "full")
    await incus.storage.copy_volume(pool, "a-copy", "a-state")
    await incus.storage.update_volume(pool, "a-state", config={"size": str(256 * MIB)})
    assert await write(real_incus, "two", 100)
    # A snapshot would bring its own limit back, and nothing could be written any more.
    await incus.instances.stop("a", force=True)
    await incus.storage.restore_volume_snapshot(pool, "a-state", "full")
    await incus.instances.start("a")
    assert await write(real_incus, "two", 100)
    assert not await write(real_incus, "three", 200)
    await incus.instances.delete("a", force=True)
    await incus.storage.delete_volume(pool, "a-state")
