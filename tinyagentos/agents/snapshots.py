"""Snapshots of an agent's state: kept by hand or by Incus's own schedule, brought back by a job."""

from __future__ import annotations

import contextlib
import re

from tinyagentos.agents import instances
from tinyagentos.agents.deploy import ensure_answering
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import FRAMEWORK_KEY
from tinyagentos.agents.steps import READY
from tinyagentos.incus import AlreadyExists, NotFound
from tinyagentos.incus import Snapshot as IncusSnapshot
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.agent import Snapshot
from tinyagentos.model.errors import InvalidInput

SNAPSHOT, RESTORE, DROP = "snapshot", "restore", "delete snapshot"
KEEP, KEEP_NOW, STOP = "snapshot state", "snapshot state as it is", "stop agent"
BRING_BACK, START, REMOVE = "restore state", "start agent", "remove snapshot"
RESTORE_STEPS = (STOP, KEEP_NOW, BRING_BACK, START, READY)
STOP_WITHIN = 30
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


def check_snapshot_name(name: str) -> str:
    """The name, if it can be a snapshot's; InvalidInput says what can."""
    if not NAME.fullmatch(name) or ".." in name:
        raise InvalidInput(
            f"{name[:80]!r} cannot be a snapshot's name.",
            hint="Use 1 to 63 lower-case letters, digits, dots, hyphens and underscores.",
        )
    return name


async def list_snapshots(instance: str, host: Host) -> tuple[Snapshot, ...]:
    """The snapshots of the agent's state, oldest first."""
    pool = await instances.pick_pool(host)
    found = await host.incus.storage.list_volume_snapshots(pool.name, f"{instance}-state")
    return tuple(
        sorted(
            map(_snapshot, found),
            key=lambda one: (one.created_at is None, one.created_at, one.name),
        )
    )


def _snapshot(seen: IncusSnapshot) -> Snapshot:
    return Snapshot(seen.name.rpartition("/")[2], seen.created_at)


async def snapshot_agent(job: JobContext, host: Host) -> None:
    """Keep the agent's state as it is now, while the agent works on."""
    job.plan_steps(KEEP)
    with job.step(KEEP):
        await _keep(job.params["instance"], job.params["snapshot"], host)


async def undo_snapshot(job: JobContext, host: Host) -> None:
    """Remove what a cancelled snapshot may have made."""
    with contextlib.suppress(NotFound):
        await _drop(job.params["instance"], job.params["snapshot"], host)


async def restore_agent(job: JobContext, host: Host) -> None:
    """Bring the state back to the snapshot; the state as it was is kept as a snapshot first."""
    name = job.params["instance"]
    job.plan_steps(*RESTORE_STEPS)
    pool = await instances.pick_pool(host)
    with job.step(STOP):
        await instances.stop(name, host, within=STOP_WITHIN)
    with job.step(KEEP_NOW):
        await _keep(name, _safety(job), host)
    with job.step(BRING_BACK):
        await host.incus.storage.restore_volume_snapshot(
            pool.name, f"{name}-state", job.params["snapshot"]
        )
    await _ensure_back(name, job, host)


async def undo_restore(job: JobContext, host: Host) -> None:
    """The state from before the restore, running if it was.

    Of an agent that somebody removed meanwhile the state alone is brought back.
    """
    name = job.params["instance"]
    await ensure_state_back(name, _safety(job), host)
    if job.params["was_running"] == "True":
        with contextlib.suppress(NotFound):
            await instances.start(name, host)


async def ensure_state_back(instance: str, snapshot: str, host: Host) -> None:
    """The state as the snapshot has it, with the instance stopped, if there is such a snapshot.

    It goes when that is done: so this happens once, however often it is asked for.
    """
    if not await has_snapshot(instance, snapshot, host):
        return
    with contextlib.suppress(NotFound):
        await instances.stop(instance, host, within=STOP_WITHIN)
    pool = await instances.pick_pool(host)
    await host.incus.storage.restore_volume_snapshot(pool.name, f"{instance}-state", snapshot)
    await _drop(instance, snapshot, host)


async def has_snapshot(instance: str, snapshot: str, host: Host) -> bool:
    """Whether the state has the snapshot; a state that is gone has none."""
    try:
        found = await list_snapshots(instance, host)
    except NotFound:
        return False
    return snapshot in {one.name for one in found}


async def drop_snapshot(job: JobContext, host: Host) -> None:
    """Remove the snapshot."""
    job.plan_steps(REMOVE)
    with job.step(REMOVE), contextlib.suppress(NotFound):
        job.commit()
        await _drop(job.params["instance"], job.params["snapshot"], host)


async def _ensure_back(name: str, job: JobContext, host: Host) -> None:
    if job.params["was_running"] != "True":
        return
    with job.step(START):
        await instances.start(name, host)
    instance = await host.incus.instances.get(name)
    await ensure_answering(name, host.recipes[instance.config[FRAMEWORK_KEY]], job, host)


async def _keep(instance: str, snapshot: str, host: Host) -> None:
    pool = await instances.pick_pool(host)
    with contextlib.suppress(AlreadyExists):
        await host.incus.storage.create_volume_snapshot(pool.name, f"{instance}-state", snapshot)


async def _drop(instance: str, snapshot: str, host: Host) -> None:
    pool = await instances.pick_pool(host)
    await host.incus.storage.delete_volume_snapshot(pool.name, f"{instance}-state", snapshot)


def _safety(job: JobContext) -> str:
    return f"before-{job.job.id}"
