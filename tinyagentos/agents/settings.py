"""What can be changed of an agent while it lives: its limits, its title, when it runs, its backups.

What is to be set is decided when the change is asked for, as Incus's own keys with what they were;
the job sets the ones, or the others again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyagentos.agents import instances
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import AUTOSTART, IDLE_KEY, TITLE_KEY, schedule_keys
from tinyagentos.incus import Instance, InstanceState, NotFound
from tinyagentos.incus import NoSpace as IncusNoSpace
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.agent import MIB, AgentChange, SnapshotSchedule
from tinyagentos.model.errors import Conflict, InvalidInput

CHANGE, APPLY = "change settings", "apply settings"
ROOT = "root"
# Between what a state holds and its least limit.
SPARE = 64 * MIB
LONGEST_TITLE = 60
MOST_IDLE_MINUTES = 60 * 24 * 30


@dataclass(frozen=True)
class Keys:
    """Keys of the instance, of its root disk and of its state volume; an empty value unsets one."""

    instance: Mapping[str, str] = field(default_factory=dict)
    root: Mapping[str, str] = field(default_factory=dict)
    volume: Mapping[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        """As a job keeps it."""
        return json.dumps({name: dict(keys) for name, keys in vars(self).items()})

    @classmethod
    def from_text(cls, text: str) -> Keys:
        """Read back what to_text() wrote."""
        return cls(**json.loads(text))


def check_title(title: str) -> str:
    """The title, if it can be shown; InvalidInput says why not."""
    if len(title) > LONGEST_TITLE or not title.isprintable():
        raise InvalidInput(
            "This cannot be an agent's title.",
            hint=f"Use up to {LONGEST_TITLE} letters, digits and signs, on one line.",
        )
    return title.strip()


def check_idle(minutes: int) -> int:
    """The minutes, if an agent can be stopped after them; InvalidInput says what can be given."""
    if not 0 <= minutes <= MOST_IDLE_MINUTES:
        raise InvalidInput(
            f"{minutes} minutes cannot be waited for.",
            hint=f"Give 0 (never) to {MOST_IDLE_MINUTES}.",
        )
    return minutes


def plan_change(change: AgentChange, *, has_quota: bool) -> Keys:
    """What has to be set for the change; InvalidInput or Conflict when it cannot be."""
    wanted: dict[str, str] = {}
    if change.memory_bytes is not None:
        wanted["limits.memory"] = str(change.memory_bytes)
    if change.cpus is not None:
        wanted["limits.cpu"] = str(change.cpus or "")
    if change.title is not None:
        wanted[TITLE_KEY] = check_title(change.title)
    if change.autostart is not None:
        # Unset: Incus starts at boot what ran before.
        wanted[AUTOSTART] = "" if change.autostart else "false"
    if change.idle_stop_minutes is not None:
        wanted[IDLE_KEY] = str(check_idle(change.idle_stop_minutes) or "")
    if not (has_quota or change.disk_bytes is change.state_bytes is None):
        raise Conflict(
            "This host's storage pool cannot limit an agent's disk.",
            hint="Pools of btrfs and zfs can.",
        )
    root = {"size": str(change.disk_bytes)} if change.disk_bytes is not None else {}
    volume = {**schedule_keys(change.snapshots)} if change.snapshots else {}
    if change.state_bytes is not None:
        volume["size"] = str(change.state_bytes)
    return Keys(wanted, root, volume)


def read_schedule(volume: Mapping[str, str]) -> SnapshotSchedule:
    """The schedule in a state volume's config."""
    try:
        return SnapshotSchedule(volume.get("snapshots.schedule", "").removeprefix("@"))
    except ValueError:
        return SnapshotSchedule.off


def check_use(change: AgentChange, state: InstanceState, image_bytes: int) -> None:
    """Conflict when a limit would be below what the agent takes now.

    image_bytes: what its root may take before the agent writes anything. Incus counts only what
    was written since, but btrfs counts both, and below that not even the limit can be changed.
    """
    used = {"memory": state.memory_bytes, "disk": state.disk_bytes.get(ROOT, 0) + image_bytes}
    wanted = {"memory": change.memory_bytes, "disk": change.disk_bytes}
    for what, limit in wanted.items():
        if limit is not None and limit < used[what]:
            raise Conflict(
                f"The agent may take {used[what] // MIB} MiB of {what} now; "
                f"{limit // MIB} MiB would be less.",
                hint="Give more, or stop the agent first." if what == "memory" else "Give more.",
            )


@dataclass(frozen=True)
class StateUse:
    """How full an agent's state is. limit_bytes: 0 for none; used_bytes: without what snapshots
    hold as well, which its limit counts (btrfs)."""

    used_bytes: int
    limit_bytes: int
    has_snapshots: bool

    @property
    def least_bytes(self) -> int:
        """The least limit that surely leaves what is there room to grow; 0 when nobody knows."""
        if self.has_snapshots:
            return self.limit_bytes
        return self.used_bytes + max(SPARE, self.used_bytes // 4)


def check_state(limit_bytes: int, use: StateUse) -> None:
    """Conflict when the limit could be below what the state holds.

    On btrfs nothing could be changed any more about such a state, nor written into it.
    """
    least = use.least_bytes
    if use.has_snapshots and not least:
        raise Conflict(
            "How much the state holds is not known while there are snapshots of it.",
            hint="Drop them first: `taos agent snapshots` lists them.",
        )
    if limit_bytes < least:
        raise Conflict(
            f"The state may hold up to {least // MIB} MiB; {limit_bytes // MIB} MiB would be less.",
            hint="Give more, or drop its snapshots first." if use.has_snapshots else "Give more.",
        )


async def read_state_use(volume: str, host: Host) -> StateUse:
    """How full the state volume is."""
    pool, storage = (await instances.pick_pool(host)).name, host.incus.storage
    limit = (await storage.get_volume(pool, volume)).config.get("size", "")
    return StateUse(
        await storage.get_volume_usage(pool, volume),
        int(limit) if limit.isdecimal() else 0,
        bool(await storage.list_volume_snapshots(pool, volume)),
    )


async def read_keys(instance: Instance, like: Keys, host: Host) -> Keys:
    """What the keys are now; empty where they are not set."""
    volume: Mapping[str, str] = {}
    if like.volume:
        pool = await instances.pick_pool(host)
        found = await host.incus.storage.get_volume(pool.name, f"{instance.name}-state")
        volume = found.config
    root = instance.devices.get(ROOT, {})
    return Keys(
        {key: instance.config.get(key, "") for key in like.instance},
        {key: root.get(key, "") for key in like.root},
        {key: volume.get(key, "") for key in like.volume},
    )


async def change_agent(job: JobContext, host: Host) -> None:
    """Set what was decided, on the agent as it runs."""
    job.plan_steps(APPLY)
    with job.step(APPLY):
        try:
            await _apply(job.params["instance"], Keys.from_text(job.params["keys"]), host)
        except IncusNoSpace as error:
            raise Conflict(
                "The agent holds more on its disk than the new limit.",
                hint="Delete some of it inside, or give more.",
            ) from error


async def undo_change(job: JobContext, host: Host) -> None:
    """Set again what was set before."""
    # One that holds more than its limit takes no other, not even a higher one.
    with contextlib.suppress(NotFound, IncusNoSpace):
        await _apply(job.params["instance"], Keys.from_text(job.params["before"]), host)


async def _apply(name: str, keys: Keys, host: Host) -> None:
    found = await host.incus.instances.get(name)
    if keys.instance or keys.root:
        root = {**found.devices.get(ROOT, {}), **keys.root}
        disk = {ROOT: {key: value for key, value in root.items() if value}} if keys.root else {}
        await host.incus.instances.update(name, config=keys.instance, devices=disk or None)
    if keys.volume:
        pool, volume = await instances.pick_pool(host), f"{name}-state"
        others = {key: value for key, value in keys.volume.items() if key != "size"}
        if others:
            await host.incus.storage.update_volume(pool.name, volume, config=others)
        if "size" in keys.volume:
            await host.incus.storage.resize_volume(pool.name, volume, keys.volume["size"])
