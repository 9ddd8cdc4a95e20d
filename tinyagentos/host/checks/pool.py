"""There is a storage pool for agents, on which a new instance is a copy-on-write snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine, unseen, warning
from tinyagentos.host.room import CLEAR, MIB, FreeBelow, free_below, read_room
from tinyagentos.incus import IncusError, StoragePool
from tinyagentos.model.errors import HostNotReady, NoSpace

GIB = 1024**3
NAME = "taos"
COW = ("btrfs", "zfs")
LEAST = 6 * GIB
USUAL = 20 * GIB
MOST = 200 * GIB
LEFT_FREE = 2 * GIB
# Incus takes no other path below its own folder (driver_btrfs.go).
SUBVOLUME = f"/var/lib/incus/storage-pools/{NAME}"
# Incus unpacks the device nodes of a volume's backup, and no cgroup keeps an unprivileged instance
# from opening them: this mount option does, whatever came into the volume (docs/adr/0080).
MOUNT = "btrfs.mount_options"
MOUNT_USUAL = "user_subvol_rm_allowed"  # what Incus mounts with when the key is not set
NO_DEVICES = "nodev"
SLOW = "every deploy unpacks the whole image again (3 to 6 s and its full size, each time)"


@dataclass(frozen=True)
class PoolPlan:
    """The pool agents are to live on: an existing one, or one to make. size in bytes, 0: none.

    config: what it is to be made with; of an existing pool, the keys that are to change.
    """

    name: str
    driver: str
    exists: bool
    size_bytes: int = 0
    config: dict[str, str] = field(default_factory=dict)


def plan_pool(
    pools: Sequence[StoragePool],
    wanted: str,
    *,
    drivers: Sequence[str],
    filesystem: str,
    free_bytes: int,
    has_loop: bool,
) -> PoolPlan:
    """Choose the pool: the one asked for, ours, any copy-on-write pool, else make one.

    ZFS is used where it is, and never installed. Raises NoSpace when the disk is too full for a
    pool, HostNotReady when the pool that was asked for is not there.
    """
    by_name = {pool.name: pool for pool in pools}
    if wanted:
        if wanted not in by_name:
            raise HostNotReady(
                f"There is no storage pool {wanted!r}.", hint="Correct `pool` in the settings."
            )
        return keep_pool(by_name[wanted])
    cow = [pool for pool in pools if pool.driver in COW]
    for pool in sorted(cow, key=lambda pool: pool.name != NAME):
        return keep_pool(pool)
    if "btrfs" in drivers and filesystem == "btrfs":
        return PoolPlan(NAME, "btrfs", exists=False, config={"source": SUBVOLUME})
    if "btrfs" in drivers and has_loop:
        size = loop_size(free_bytes)
        config = {"size": f"{size // GIB}GiB", MOUNT: without_devices("")}
        return PoolPlan(NAME, "btrfs", False, size, config)
    if pools:
        return keep_pool(pools[0])
    return PoolPlan(NAME, "dir", exists=False)


def keep_pool(pool: StoragePool) -> PoolPlan:
    """The plan for a pool that is there, with what its mount lacks."""
    options = pool.config.get(MOUNT, "")
    # A subvolume of the host's own file system is not mounted by Incus, so it has no options.
    if pool.driver != "btrfs" or pool.config.get("source") == SUBVOLUME:
        return PoolPlan(pool.name, pool.driver, exists=True)
    closed = without_devices(options)
    changes = {} if closed == options else {MOUNT: closed}
    return PoolPlan(pool.name, pool.driver, exists=True, config=changes)


def without_devices(options: str) -> str:
    """The mount options, with device nodes closed; empty: Incus's usual ones."""
    given = (options or MOUNT_USUAL).split(",")
    if NO_DEVICES in given and "dev" not in given:
        return options
    return ",".join([*(one for one in given if one not in ("dev", NO_DEVICES)), NO_DEVICES])


def loop_size(free_bytes: int) -> int:
    """How large the pool's file may grow: half of what is free, on a small disk nearly all.

    The file is sparse: it takes only what is used. Raises NoSpace with the numbers.
    """
    room = free_bytes - LEFT_FREE
    if room < LEAST:
        raise NoSpace(
            f"The disk has {free_bytes / GIB:.1f} GiB free; a pool for agents needs "
            f"{LEAST // GIB} GiB and leaves {LEFT_FREE // GIB} GiB to the host.",
            hint="Free some space, or make a storage pool on another disk and set `pool`.",
        )
    size = min(max(free_bytes // 2, USUAL), room, MOST)
    return size // GIB * GIB


async def make_plan(ground: Ground) -> PoolPlan:
    """The pool for this host."""
    async with ground.incus("default") as incus:
        return plan_pool(
            await incus.storage.list_pools(),
            ground.settings.pool,
            drivers=(await incus.server()).storage_drivers,
            filesystem=ground.facts.incus_filesystem,
            free_bytes=ground.facts.disk_free_bytes,
            has_loop=Path("/dev/loop-control").exists(),
        )


async def look(ground: Ground) -> Finding:
    """Whether there is a pool, and whether it is a good one."""
    try:
        plan = await make_plan(ground)
    except IncusError as error:
        return unseen(error, plan="make a copy-on-write storage pool")
    if not plan.exists:
        size = f" of up to {plan.size_bytes // GIB} GiB" if plan.size_bytes else ""
        return broken("there is no pool for agents", plan=f"make a {plan.driver} pool{size}")
    if little := await find_little_room(plan.name, ground):
        return little
    if plan.driver not in COW:
        return warning(
            f"pool {plan.name} is of kind {plan.driver}: {SLOW}",
            "Make a btrfs or zfs pool and set `pool` to it.",
        )
    if plan.config and plan.name != NAME:
        return warning(
            f"pool {plan.name} lets device nodes in an agent's files work",
            f"Run `incus storage set {plan.name} {MOUNT}={plan.config[MOUNT]}` and restart agents.",
        )
    if plan.config:
        return broken(
            f"pool {plan.name} lets device nodes in an agent's files work",
            plan=f"mount pool {plan.name} so that they do not",
        )
    return fine(f"pool {plan.name} ({plan.driver})")


async def find_little_room(
    pool: str, ground: Ground, free: FreeBelow = free_below
) -> Finding | None:
    """That the disk under the pool is full or nearly so; None when it is not."""
    try:
        async with ground.incus("default") as incus:
            room = await read_room(incus, pool, free)
    except IncusError as error:
        return unseen(error, plan="")
    if not room.is_little_below or room.below_bytes is None:
        return None
    said = (
        f"the disk under pool {pool} ({room.below}) has {room.below_bytes // MIB} MiB free; "
        f"agents fail when it is full"
    )
    return broken(said, hint=CLEAR) if room.free_bytes == 0 else warning(said, CLEAR)


async def fix(ground: Ground, report: Report) -> None:
    """Make the pool that the plan names, or mend ours; a pool of somebody else stays as it is."""
    plan = await make_plan(ground)
    if plan.exists:
        if plan.config and plan.name == NAME:
            await close_devices(plan, ground)
            report("an agent's files are mounted so from its next start on")
        return
    if plan.driver == "dir":
        report(f"this host has no btrfs: making a dir pool, where {SLOW}")
    async with ground.incus("default") as incus:
        await incus.storage.create_pool(
            plan.name, plan.driver, plan.config, "Agents of taOS", within=120
        )


async def close_devices(plan: PoolPlan, ground: Ground) -> None:
    """Have the pool mounted as the plan says; instances that run keep the mount they have."""
    async with ground.incus("default") as incus:
        await incus.storage.update_pool(plan.name, config=plan.config)


CHECK = Check("pool", "on a copy-on-write pool a deploy takes 0.3 s of disk work", look, fix)
