"""What taOS itself costs this host: memory, processor, and the disk of all that it keeps."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.agents.instances import pick_pool
from tinyagentos.web.services import Services


@dataclass(frozen=True)
class OwnCost:
    """What this process takes. cpu_seconds: since it began, running_seconds ago."""

    memory_bytes: int
    cpu_seconds: float
    running_seconds: float

    @property
    def cpu_share(self) -> float:
        """Of one processor, on average."""
        return self.cpu_seconds / self.running_seconds if self.running_seconds else 0.0


def read_own_cost() -> OwnCost:
    """What this process takes now (proc(5): statm, stat)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    used = resource.getrusage(resource.RUSAGE_SELF)
    # The name in the second field may hold blanks; the start time is the 22nd.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    began_at = ticks / os.sysconf("SC_CLK_TCK")
    running = time.clock_gettime(time.CLOCK_BOOTTIME) - began_at
    memory = pages * os.sysconf("SC_PAGE_SIZE")
    return OwnCost(memory, used.ru_utime + used.ru_stime, max(0.0, running))


async def measure_folder(folder: Path) -> int:
    """The bytes on the disk of all that is in the folder."""
    return await asyncio.to_thread(disk_bytes, folder)


def disk_bytes(folder: Path) -> int:
    """The blocks of the folder's files in bytes; what goes meanwhile is left out."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(where, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


async def measure_images(services: Services) -> int:
    """The bytes of the images that Incus keeps for taOS, packed."""
    return sum(image.size for image in await services.incus.images.list())


async def measure_kept(services: Services) -> int:
    """The bytes of the states that outlived their agents, as far as the pool can tell."""
    pool = await pick_pool(services.host)
    used = await asyncio.gather(
        *(
            services.incus.storage.get_volume_usage(pool.name, one.name)
            for one in await services.agents.list_kept()
        )
    )
    return sum(filter(None, used))
