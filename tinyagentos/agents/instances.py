"""The Incus objects of an agent: its instance, its state volume, and how they are removed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime

from tinyagentos.agents.host import Host
from tinyagentos.agents.order import (
    AGENT_KEY,
    FRAMEWORK_KEY,
    UNIT,
    DeployOrder,
    redact,
    volume_config,
)
from tinyagentos.agents.roles import next_name, previous_name
from tinyagentos.incus import IncusError, NotFound, StoragePool
from tinyagentos.model.errors import HostNotReady

COW_DRIVERS = frozenset({"btrfs", "zfs"})
MAX_RESTARTS = 3
COUNT_WITHIN = 10.0
FOLLOW_WITHIN = 24 * 3600.0
# What a command in an agent's instance is believed to say: root in there is a stranger.
MOST_SAID = 256 * 1024
LONGEST_LINE = 16 * 1024
LONGEST_TOLD = 2000


async def pick_pool(host: Host) -> StoragePool:
    """The pool agents live on: the setting, else the one of the project's default profile."""
    profile = await host.incus.profiles.get("default")
    name = host.settings.pool or profile.devices.get("root", {}).get("pool", "")
    if not name:
        raise HostNotReady("No storage pool is set up.", hint="Run `taos setup`.")
    return await host.incus.storage.get_pool(name)


def has_quota(pool: StoragePool) -> bool:
    """Whether the pool can limit how large a root or a state grows."""
    return pool.driver in COW_DRIVERS


async def ensure_volume(order: DeployOrder, pool: StoragePool, host: Host) -> None:
    """The agent's state volume, made if it is not there."""
    if await host.incus.storage.find_volume(pool.name, order.volume):
        return
    config = {AGENT_KEY: order.agent, FRAMEWORK_KEY: order.framework}
    config.update(volume_config(order, has_quota=has_quota(pool)))
    await host.incus.storage.create_volume(
        pool.name,
        order.volume,
        config=config,
        description=f"State of taOS agent {order.agent}",
    )


async def set_config(instance: str, config: Mapping[str, str], host: Host) -> None:
    """Change config keys of the instance; the others stay."""
    await host.incus.instances.update(instance, config=config)


async def remove(name: str, host: Host) -> None:
    """Remove the agent's instances, state volume and socket; what is gone already is no error."""
    await remove_roots(name, host)
    pool = await pick_pool(host)
    with contextlib.suppress(NotFound):
        await host.incus.storage.delete_volume(pool.name, f"{name}-state")


async def remove_roots(name: str, host: Host) -> None:
    """Remove the agent's instances, its older and its coming one too; the state volume stays."""
    for one in (name, next_name(name), previous_name(name)):
        await remove_root(one, host)


async def remove_root(name: str, host: Host) -> None:
    """Remove the instance and its socket; the state volume stays."""
    with contextlib.suppress(NotFound):
        await host.incus.instances.stop(name, force=True)
        await host.incus.instances.delete(name)
    host.socket(name).unlink(missing_ok=True)


async def start(name: str, host: Host) -> None:
    """Start the instance, whatever root in there made of the files that Incus would write.

    After a rename Incus writes the name into the root anew. A root that has run keeps what it has.
    """
    config = (await host.incus.instances.get(name)).config
    if config.get("volatile.apply_template") and config.get("volatile.last_state.power"):
        await host.incus.instances.drop_templates(name)
    await host.incus.instances.start(name)


async def stop(name: str, host: Host, *, within: int) -> None:
    """Stop the instance; by force when it does not end by itself within that many seconds."""
    instance = await host.incus.instances.get(name)
    if instance.status == "Stopped":
        return
    try:
        await host.incus.instances.stop(name, timeout=within)
    except IncusError:
        await host.incus.instances.stop(name, force=True)


async def count_disk(name: str, host: Host) -> None:
    """Have all counted that the instance wrote: btrfs does that when it writes to the disk."""
    with contextlib.suppress(IncusError):
        await host.incus.instances.exec(name, ("sync",), within=COUNT_WITHIN, most=MOST_SAID)


async def why_failing(name: str, host: Host) -> str:
    """Why the agent's unit cannot become ready, or nothing while it may still."""
    shown = await _show_unit(name, host)
    said = shown.get("NRestarts", "")
    restarts = int(said) if re.fullmatch(r"[0-9]{1,9}", said) else 0
    state = shown.get("ActiveState", "")
    if state == "failed" or restarts >= MAX_RESTARTS:
        times = f" after {restarts} restarts" if restarts else ""
        return f"The agent's service ends right after its start{times}."
    return ""


async def _show_unit(name: str, host: Host) -> dict[str, str]:
    argv = ("systemctl", "show", "--property=ActiveState,NRestarts", UNIT)
    try:
        result = await host.incus.instances.exec(name, argv, within=5, most=MOST_SAID)
    except IncusError:
        return {}
    lines = result.stdout.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


async def log_tail(name: str, host: Host, lines: int = 20) -> str:
    """The last lines of the agent's log without its tokens, or nothing when it cannot be read."""
    argv = ("journalctl", f"--unit={UNIT}", f"--lines={lines}", "--no-pager", "--output=cat")
    try:
        result = await host.incus.instances.exec(name, argv, within=10, most=MOST_SAID)
    except IncusError:
        return ""
    said = redact(result.stdout.decode(errors="replace").strip(), name, host.key)
    return "\n".join(line[:LONGEST_TOLD] for line in said.splitlines()[-lines:])


async def read_log(
    name: str, unit: str, host: Host, *, follow: bool, lines: int, since: datetime | None = None
) -> AsyncIterator[str]:
    """The unit's log, line by line; of one that is very long, its beginning."""
    argv = ["journalctl", f"--unit={unit}", f"--lines={lines}", "--no-pager", "--output=short-iso"]
    cutter = Lines()
    within = FOLLOW_WITHIN if follow else 30.0
    argv += ["--follow"] if follow else []
    argv += [f"--since=@{since.timestamp():.0f}"] if since else []
    async with host.incus.instances.exec_stream(name, argv, within=within) as journal:
        async for _, chunk in journal:
            for line in cutter.feed(chunk):
                yield line.decode(errors="replace")
    if cutter.rest:
        yield cutter.rest.decode(errors="replace")


class Lines:
    """Cuts a stream into lines, and lines that are too long short."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self.rest = b""
        self._longest = longest

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that the chunk completes."""
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield (self.rest + line)[: self._longest]
            self.rest = b""
        # Of a line without an end nothing more than this is ever held.
        self.rest = (self.rest + rest)[: self._longest]
