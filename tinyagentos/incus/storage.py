"""Storage pools and custom volumes, with the volumes' snapshots."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from tinyagentos.incus.errors import NotFound
from tinyagentos.incus.instance import Snapshot
from tinyagentos.incus.operations import OPERATION_WITHIN, Api, submitted
from tinyagentos.incus.parse import (
    Object,
    as_object,
    as_objects,
    child,
    integer,
    moment,
    strings,
    text,
    texts,
)
from tinyagentos.incus.transport import NONE, Texts

POOLS = "/1.0/storage-pools"
# Packing and unpacking: hundreds of gigabytes on a slow disk.
BACKUP_WITHIN = 6 * 3600.0
UNLIMITED = str(1 << 60)
NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True)
class StoragePool:
    """A pool as it was when asked for."""

    name: str
    driver: str
    status: str
    description: str
    config: Mapping[str, str]
    used_by: tuple[str, ...]

    @classmethod
    def parse(cls, seen: Object) -> StoragePool:
        """Read Incus's JSON."""
        return cls(
            name=text(seen, "name"),
            driver=text(seen, "driver"),
            status=text(seen, "status"),
            description=text(seen, "description"),
            config=strings(seen, "config"),
            used_by=texts(seen, "used_by"),
        )


@dataclass(frozen=True)
class PoolResources:
    """How full a pool is."""

    used_bytes: int
    total_bytes: int

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return max(0, self.total_bytes - self.used_bytes)


@dataclass(frozen=True)
class Volume:
    """A custom volume as it was when asked for."""

    name: str
    content_type: str
    description: str
    config: Mapping[str, str]
    location: str
    used_by: tuple[str, ...]
    created_at: datetime | None

    @classmethod
    def parse(cls, seen: Object) -> Volume:
        """Read Incus's JSON."""
        return cls(
            name=text(seen, "name"),
            content_type=text(seen, "content_type"),
            description=text(seen, "description"),
            config=strings(seen, "config"),
            location=text(seen, "location"),
            used_by=texts(seen, "used_by"),
            created_at=moment(seen, "created_at"),
        )


@dataclass(frozen=True)
class Storage:
    """The daemon's pools, and the project's custom volumes on them."""

    api: Api

    async def list_pools(self) -> tuple[StoragePool, ...]:
        """All pools."""
        seen = await self.api.get(POOLS, query={"recursion": "1"})
        return tuple(StoragePool.parse(one) for one in as_objects(seen))

    async def find_pool(self, name: str) -> StoragePool | None:
        """The pool, or None."""
        with contextlib.suppress(NotFound):
            return await self.get_pool(name)
        return None

    async def get_pool(self, name: str) -> StoragePool:
        """The pool; NotFound when there is none."""
        return StoragePool.parse(as_object(await self.api.get(_pool(name))))

    async def create_pool(
        self,
        name: str,
        driver: str,
        config: Texts = NONE,
        description: str = "",
        *,
        within: float = OPERATION_WITHIN,
    ) -> StoragePool:
        """The new pool; AlreadyExists when the name is taken."""
        body = {
            "name": name,
            "driver": driver,
            "config": dict(config),
            "description": description,
        }
        await self.api.call("POST", POOLS, body, within=within)
        return await self.get_pool(name)

    async def update_pool(self, name: str, *, config: Texts) -> None:
        """Change these config keys and leave the others; mount options are in force at once."""
        await self.api.merge(_pool(name), config)

    async def delete_pool(self, name: str) -> None:
        """Delete the unused pool."""
        await self.api.call("DELETE", _pool(name), within=OPERATION_WITHIN)

    async def get_resources(self, pool: str) -> PoolResources:
        """How full the pool is."""
        space = child(as_object(await self.api.get(_pool(pool, "resources"))), "space")
        return PoolResources(integer(space, "used"), integer(space, "total"))

    async def list_volumes(self, pool: str) -> tuple[Volume, ...]:
        """The project's custom volumes on the pool."""
        seen = await self.api.get(_volume(pool), query={"recursion": "1"})
        return tuple(Volume.parse(one) for one in as_objects(seen))

    async def find_volume(self, pool: str, name: str) -> Volume | None:
        """The volume, or None."""
        with contextlib.suppress(NotFound):
            return await self.get_volume(pool, name)
        return None

    async def get_volume(self, pool: str, name: str) -> Volume:
        """The volume; NotFound when there is none."""
        return Volume.parse(as_object(await self.api.get(_volume(pool, name))))

    async def get_volume_usage(self, pool: str, name: str) -> int:
        """Bytes that the volume takes, as far as the pool's driver counts them, else 0.

        What it shares with a snapshot does not count on btrfs, though its limit counts it.
        """
        seen = as_object(await self.api.get(_volume(pool, name, "state")))
        return integer(child(seen, "usage"), "used")

    async def create_volume(
        self, pool: str, name: str, *, config: Texts = NONE, description: str = ""
    ) -> Volume:
        """The new, empty volume; AlreadyExists when the name is taken."""
        body = {
            "name": name,
            "type": "custom",
            "content_type": "filesystem",
            "config": dict(config),
            "description": description,
        }
        await self.api.run("POST", _volume(pool), body)
        return await self.get_volume(pool, name)

    async def copy_volume(self, pool: str, name: str, source: str) -> Volume:
        """The new volume with the content of another, or of `volume/snapshot`, on the pool."""
        body = {
            "name": name,
            "type": "custom",
            "source": {"type": "copy", "pool": pool, "name": source, "volume_only": True},
        }
        await self.api.run("POST", _volume(pool), body)
        return await self.get_volume(pool, name)

    async def update_volume(self, pool: str, name: str, *, config: Texts) -> None:
        """Change these config keys and leave the others."""
        await self.api.merge(_volume(pool, name), config)

    async def resize_volume(self, pool: str, name: str, size: str) -> None:
        """Limit the volume to so many bytes (empty: no limit), whatever is in force now.

        NoSpace when it holds more.
        """
        if (await self.get_volume(pool, name)).config.get("size", "") == size:
            # Incus does nothing about a size that the config has already.
            other = str(int(size) + 1) if size else UNLIMITED
            await self.update_volume(pool, name, config={"size": other})
        await self.update_volume(pool, name, config={"size": size})

    async def rename_volume(self, pool: str, name: str, new: str) -> None:
        """Give the volume another name; nobody may use it. AlreadyExists when that is taken."""
        await self.api.run("POST", _volume(pool, name), {"name": new, "pool": pool})

    async def delete_volume(self, pool: str, name: str) -> None:
        """Delete the volume with its snapshots; IncusError when an instance uses it."""
        await self.api.run("DELETE", _volume(pool, name))

    async def create_volume_backup(self, pool: str, volume: str, backup: str) -> None:
        """Have Incus pack the volume, without its snapshots, into a file of its own."""
        body = {
            "name": backup,
            "volume_only": True,
            "optimized_storage": False,
            # Whatever this daemon's usual way is: who takes it in again can look into this one.
            "compression_algorithm": "gzip",
        }
        path = _volume(pool, volume, "backups")
        await self.api.run("POST", path, body, within=BACKUP_WITHIN)

    async def read_volume_backup(
        self, pool: str, volume: str, backup: str, *, stall: float | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes of a backup; it goes with its volume."""
        path = _volume(pool, volume, "backups", backup, "export")
        query = self.api.query()
        async with self.api.transport.download(path, query=query, stall=stall) as download:
            async for chunk in download.chunks():
                yield chunk

    async def import_volume(
        self, pool: str, name: str, backup: AsyncIterator[bytes], *, stall: float | None = None
    ) -> None:
        """Make the volume out of a backup's bytes; AlreadyExists when the name is taken."""
        headers = {"Content-Type": "application/octet-stream", "X-Incus-name": name}
        reply = await self.api.transport.upload(
            "POST", _volume(pool), backup, query=self.api.query(), headers=headers, stall=stall
        )
        await self.api.wait(submitted(reply), within=BACKUP_WITHIN)

    async def list_volume_snapshots(self, pool: str, volume: str) -> tuple[Snapshot, ...]:
        """The volume's snapshots."""
        seen = await self.api.get(_volume(pool, volume, "snapshots"), query={"recursion": "1"})
        return tuple(Snapshot.parse(one) for one in as_objects(seen))

    async def create_volume_snapshot(self, pool: str, volume: str, snapshot: str) -> None:
        """Keep the volume as it is now; AlreadyExists when the name is taken."""
        # Never by itself: without a time of its own it would go when scheduled ones go.
        body = {"name": snapshot, "expires_at": NEVER}
        await self.api.run("POST", _volume(pool, volume, "snapshots"), body)

    async def delete_volume_snapshot(self, pool: str, volume: str, snapshot: str) -> None:
        """Delete the snapshot."""
        await self.api.run("DELETE", _volume(pool, volume, "snapshots", snapshot))

    async def restore_volume_snapshot(self, pool: str, volume: str, snapshot: str) -> None:
        """Bring the volume back to the snapshot; no running instance may use it.

        Its `size` is then the larger of its own and the snapshot's, none being the largest.
        """
        await self.api.run("PUT", _volume(pool, volume), {"restore": snapshot})
        # On btrfs the limit from the snapshot's time is in force now, whatever the config says, and
        # a limit below what came back could never be changed again (6.0.4).
        own = (await self.get_volume(pool, volume)).config.get("size", "")
        found = await self.list_volume_snapshots(pool, volume)
        old = next((one.config.get("size", "") for one in found if one.name == snapshot), own)
        # What somebody wrote in another unit stays as it is.
        if own != old and all(one.isdecimal() for one in (own, old) if one):
            await self.resize_volume(pool, volume, larger(own, old))


def larger(one: str, other: str) -> str:
    """The larger of two sizes in bytes; empty: no limit."""
    return max(one, other, key=int) if one and other else ""


def _pool(name: str, *more: str) -> str:
    return "/".join((POOLS, *(quote(part, safe="") for part in (name, *more))))


def _volume(pool: str, *more: str) -> str:
    return _pool(pool, "volumes", "custom", *more)
