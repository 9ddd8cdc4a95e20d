"""What is really free for agents: a pool may promise more than the disk under it has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.incus import Incus, StoragePool

MIB = 1024**2
# What stays free on the disk under a pool, for the host itself and taOS's records.
HOST_FLOOR = 512 * MIB
# From here on people are told.
LITTLE = 2048 * MIB
GROW = "Delete agents or images you do not need, or grow the pool."
CLEAR = "Make room on that disk of the host: the pool is a file that grows on it."

FreeBelow = Callable[[Path], int]


@dataclass(frozen=True)
class Room:
    """A pool's free space, and that of the disk under it; None where the pool is its own disk."""

    pool: str
    used_bytes: int
    total_bytes: int
    below: Path | None = None
    below_bytes: int | None = None

    @property
    def inside_bytes(self) -> int:
        """What the pool itself says is free."""
        return max(0, self.total_bytes - self.used_bytes)

    @property
    def free_bytes(self) -> int:
        """What may be written: less than the pool says where the disk under it has less."""
        if self.below_bytes is None:
            return self.inside_bytes
        return min(self.inside_bytes, max(0, self.below_bytes - HOST_FLOOR))

    @property
    def is_held_back(self) -> bool:
        """Whether the disk under the pool, and not the pool, is what limits."""
        return self.free_bytes < self.inside_bytes

    @property
    def is_little_below(self) -> bool:
        """Whether the disk under the pool is nearly full."""
        return self.below_bytes is not None and self.below_bytes < LITTLE

    @property
    def said(self) -> str:
        """The numbers, as the beginning of a sentence."""
        if not self.is_held_back or self.below_bytes is None:
            return f"Storage pool {self.pool} has {self.free_bytes // MIB} MiB free"
        return (
            f"The disk under storage pool {self.pool} ({self.below}) has "
            f"{self.below_bytes // MIB} MiB free, of which {HOST_FLOOR // MIB} MiB stay"
        )

    @property
    def hint(self) -> str:
        """Where room has to be made."""
        return CLEAR if self.is_held_back else GROW


def free_below(folder: Path) -> int:
    """What is free on the file system of the folder."""
    return shutil.disk_usage(folder).free


async def read_room(incus: Incus, pool: str, free: FreeBelow = free_below) -> Room:
    """The room of the pool now."""
    inside = await incus.storage.get_resources(pool)
    below = folder_below(await incus.storage.get_pool(pool))
    return Room(pool, inside.used_bytes, inside.total_bytes, below, free(below) if below else None)


def folder_below(pool: StoragePool) -> Path | None:
    """The folder of this host that the pool's file is in; None for a disk or a dataset."""
    source = Path(pool.config.get("source", ""))
    if not source.is_absolute():
        return None
    if source.is_file():
        return source.parent
    return source if source.is_dir() else None
