"""State that outlives its agent: the volume of one that was deleted with its state kept."""

from __future__ import annotations

import contextlib
from datetime import datetime

from tinyagentos.agents import instances
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import (
    AGENT_KEY,
    FRAMEWORK_KEY,
    KEPT_KEY,
    DeployOrder,
    volume_config,
)
from tinyagentos.incus import NotFound as IncusNotFound
from tinyagentos.incus import StoragePool, Volume
from tinyagentos.model.agent import KeptState
from tinyagentos.model.errors import InvalidInput, NotFound

NOTHING_KEPT = {KEPT_KEY: ""}


async def keep_state(instance: str, framework: str, host: Host, agent: str = "") -> None:
    """Mark the state as one that nobody uses and nobody removes.

    framework, agent: whose it was till now; empty: what is written on it stays.
    """
    pool = await instances.pick_pool(host)
    marks = {KEPT_KEY: host.now().isoformat(timespec="seconds")}
    marks |= {FRAMEWORK_KEY: framework} if framework else {}
    marks |= {AGENT_KEY: agent} if agent else {}
    # Scheduled snapshots of what nobody changes would only push the old ones out.
    marks |= {"snapshots.schedule": ""}
    with contextlib.suppress(IncusNotFound):
        await host.incus.storage.update_volume(pool.name, f"{instance}-state", config=marks)


async def list_kept(host: Host) -> tuple[KeptState, ...]:
    """The kept states, the newest first."""
    pool = await instances.pick_pool(host)
    found = (
        _view(one)
        for one in await host.incus.storage.list_volumes(pool.name)
        if one.config.get(KEPT_KEY) and AGENT_KEY in one.config
    )
    return tuple(sorted(found, key=lambda one: (one.kept_at, one.name), reverse=True))


def _view(volume: Volume) -> KeptState:
    return KeptState(
        volume.name,
        volume.config[AGENT_KEY],
        volume.config.get(FRAMEWORK_KEY, ""),
        datetime.fromisoformat(volume.config[KEPT_KEY]),
    )


async def find_kept(name: str, framework: str, host: Host) -> str:
    """The volume of the newest state that is kept of the agent, or of that name.

    Raises NotFound, or InvalidInput when it is another framework's.
    """
    for one in await list_kept(host):
        if name in (one.agent, one.name):
            if one.framework != framework:
                raise InvalidInput(
                    f"The kept state of {name!r} is {one.framework}'s, not {framework}'s.",
                    hint=f"Deploy it with `--framework {one.framework}`.",
                )
            return one.name
    raise NotFound(f"No state is kept of {name[:60]!r}.", hint="`taos agent kept` lists what is.")


async def drop_kept(name: str, host: Host) -> None:
    """Remove the kept state for good; NotFound when there is none of that name."""
    if name not in {one.name for one in await list_kept(host)}:
        raise NotFound(f"There is no kept state {name[:80]!r}.", hint="`taos agent kept` lists.")
    pool = await instances.pick_pool(host)
    await host.incus.storage.delete_volume(pool.name, name)


async def take_kept(order: DeployOrder, pool: StoragePool, host: Host) -> None:
    """Make the kept state the new agent's; once it is, nothing happens.

    Whose it was stays written on it: an undone deploy gives it back as that one's.
    """
    if await host.incus.storage.find_volume(pool.name, order.kept):
        await host.incus.storage.rename_volume(pool.name, order.kept, order.volume)
    config = {**NOTHING_KEPT, **volume_config(order, has_quota=instances.has_quota(pool))}
    await host.incus.storage.update_volume(pool.name, order.volume, config=config)


async def give_back(order: DeployOrder, host: Host) -> None:
    """Undo take_kept(): the state is kept again, as it is; once it is, nothing happens."""
    pool = await instances.pick_pool(host)
    if await host.incus.storage.find_volume(pool.name, order.volume):
        await keep_state(order.instance, order.framework, host)
        await host.incus.storage.rename_volume(pool.name, order.volume, order.kept)
