"""A volume with a device node that got past every reader: the pool's mount keeps it shut.

What the agent's root does inside is what a hostile one would: open the node, mount its folder
anew with devices allowed, and the same in a mount namespace of its own.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from tests.fakes.fixtures import Backend
from tests.fakes.tiny_image import TinyImage
from tinyagentos.host.checks.pool import MOUNT, keep_pool
from tinyagentos.incus import Incus, InstanceRequest

pytestmark = pytest.mark.incus
SIZE = "1GiB"
READ = "head -c 2 /srv/node | wc -c"
MOUNT_AGAIN = "busybox mount -o remount,bind,dev"
BIND = f"mkdir -p /tmp/a; busybox mount -o bind /srv /tmp/a; {MOUNT_AGAIN} /tmp/a; "
ATTACKS = {
    "as it is": READ,
    "bound again": BIND + "head -c 2 /tmp/a/node | wc -c",
    "remounted": f"{MOUNT_AGAIN} /srv; {READ}",
    "in a mount namespace": f"busybox unshare -m sh -c '{MOUNT_AGAIN} /srv; {READ}'",
}


@pytest.fixture
async def pool(real_incus: Backend) -> AsyncIterator[str]:
    """A btrfs pool as an older setup made it."""
    name = f"{real_incus.incus.project}-b"
    await real_incus.incus.storage.create_pool(name, "btrfs", {"size": SIZE}, within=60)
    yield name
    storage = real_incus.incus.storage
    for instance in await real_incus.incus.instances.list():
        await real_incus.incus.instances.delete(instance.name, force=True)
    for volume in await storage.list_volumes(name):
        await storage.delete_volume(name, volume.name)
    for image in await real_incus.incus.images.list():
        await real_incus.incus.images.delete(image.fingerprint)
    await storage.delete_pool(name)


async def plant(incus: Incus, pool: str) -> None:
    """Import a volume that has /dev/zero in it, open to everybody, as Incus itself takes it."""
    await incus.storage.create_volume(pool, "honest")
    await incus.storage.create_volume_backup(pool, "honest", "b")
    packed = b"".join([one async for one in incus.storage.read_volume_backup(pool, "honest", "b")])
    hostile = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(packed)) as given,
        tarfile.open(fileobj=hostile, mode="w:gz") as made,
    ):
        for member in given:
            made.addfile(member, given.extractfile(member) if member.isreg() else None)
        node = tarfile.TarInfo("backup/volume/node")
        node.type, node.devmajor, node.devminor, node.mode = tarfile.CHRTYPE, 1, 5, 0o666
        made.addfile(node)

    async def body() -> AsyncIterator[bytes]:
        yield hostile.getvalue()

    await incus.storage.import_volume(pool, "hostile", body())


async def attack(incus: Incus) -> dict[str, bool]:
    """Which attacks of the instance's root read from the device."""
    got = {}
    for name, script in ATTACKS.items():
        result = await incus.instances.exec("agent", ("sh", "-c", script), within=30)
        got[name] = result.stdout.strip() == b"2"
    return got


async def test_a_device_node_in_an_agents_files_does_not_open(
    real_incus: Backend, tiny_image: TinyImage, pool: str
) -> None:
    incus = real_incus.incus
    await plant(incus, pool)
    await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
    devices = {
        "root": {"type": "disk", "path": "/", "pool": pool},
        "state": {"type": "disk", "pool": pool, "source": "hostile", "path": "/srv"},
    }
    config = {"security.idmap.isolated": "true", "security.nesting": "true"}
    request = InstanceRequest("agent", image=tiny_image.fingerprint, config=config, devices=devices)
    await incus.instances.create(request, start=True)
    # Without the option the node opens; else the rest would prove nothing.
    assert (await attack(incus))["as it is"]

    found = await incus.storage.get_pool(pool)
    await incus.storage.update_pool(pool, config=keep_pool(found).config)
    await incus.instances.stop("agent", force=True)
    await incus.instances.start("agent")
    assert MOUNT in (await incus.storage.get_pool(pool)).config
    assert not any((await attack(incus)).values())
