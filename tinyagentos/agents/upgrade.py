"""Upgrading an agent: a new root beside the old one, the same state, and a way back.

The new root is made while the old one still works. The old instance is kept, stopped, until the
undo window has passed. An agent is its instance's name: the two change names when both are stopped,
so tokens, socket and state volume stay what they were (docs/adr/0065).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tinyagentos.agents import instances
from tinyagentos.agents.deploy import ensure_answering, ensure_door, push_env
from tinyagentos.agents.host import Host
from tinyagentos.agents.network import NIC, ensure_nic
from tinyagentos.agents.order import (
    FRAMEWORK_KEY,
    JOB_KEY,
    SOURCE_KEY,
    STAGE_KEY,
    VERSION_KEY,
)
from tinyagentos.agents.plan import FALLBACK_BASE, LaunchPlan
from tinyagentos.agents.roles import (
    NEXT,
    PREVIOUS,
    REPLACED_KEY,
    ROLE_KEY,
    SINCE_KEY,
    SNAPSHOT_KEY,
    next_name,
    previous_name,
)
from tinyagentos.agents.snapshots import ensure_state_back, has_snapshot
from tinyagentos.agents.steps import BASE, BUILT, CONNECT, DEPLOYED, INSTALL, READY
from tinyagentos.images.supply import find_image
from tinyagentos.incus import (
    AlreadyExists,
    Image,
    IncusError,
    Instance,
    InstanceRequest,
    NotFound,
)
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import Conflict, HostNotReady
from tinyagentos.model.image import image_alias
from tinyagentos.model.version import is_newer

UPGRADE, UNDO, FORGET = "upgrade", "undo upgrade", "end undo window"
PLAN, CREATE, STOP = "plan", "create new root", "stop agent"
SNAPSHOT, SWITCH, START = "snapshot state", "switch roots", "start agent"
STEPS = (PLAN, BASE, CREATE, INSTALL, STOP, SNAPSHOT, SWITCH, START, CONNECT, READY)
IMAGE_STEPS = tuple(step for step in STEPS if step not in (BASE, INSTALL))
BACK, RESTORE = "bring the old root back", "restore state"
TIDY, REMOVE_NEW = "remove old root", "remove new root"
UNDO_STEPS = (STOP, SNAPSHOT, RESTORE, BACK, START, READY, REMOVE_NEW)
UNMARKED = {ROLE_KEY: "", REPLACED_KEY: "", SNAPSHOT_KEY: "", SINCE_KEY: ""}
STOP_WITHIN = 30
STATE = "state"
# How long lists believe what they know of images, and how long they wait to learn it.
LOOK_EVERY = timedelta(minutes=1)
LOOK_WITHIN = 1.0
# What Incus itself writes into an instance's config; a new instance gets its own.
OWN = ("volatile.", "image.")


@dataclass(frozen=True)
class Target:
    """What the agent is upgraded to."""

    plan: LaunchPlan
    version: str


def find_newest(
    framework: str, arch: str, *, current: str, recipe_version: str, image_version: str
) -> Target | None:
    """What an agent of the current version can become; None when nothing here is newer.

    image_version: that of the image on this host, or nothing. The newer of image and recipe, and of
    two that are the same the image, which is quicker. Versions alone count: an older release can be
    published anew as a channel's newest, and an agent never goes back by itself.
    """
    if is_newer(image_version, current) and not is_newer(recipe_version, image_version):
        reason = f"the image of {image_version} is on this host"
        return Target(LaunchPlan("image", image_alias(framework, arch), reason), image_version)
    if is_newer(recipe_version, current):
        reason = f"no image of {recipe_version} on this host"
        base = image_alias(FALLBACK_BASE, arch)
        return Target(LaunchPlan("build", base, reason), recipe_version)
    return None


def plan_upgrade(
    framework: str, arch: str, *, current: str, recipe_version: str, image_version: str
) -> Target:
    """What find_newest() says; Conflict when there is nothing newer."""
    target = find_newest(
        framework, arch,
        current=current, recipe_version=recipe_version, image_version=image_version,
    )  # fmt: skip
    if target is None:
        raise Conflict(
            f"The agent has the newest version known here, {current}.",
            hint="`taos image list` shows what is here.",
        )
    return target


def find_newest_for(instance: Instance, image_version: str, host: Host) -> Target | None:
    """What the agent of this instance can be upgraded to; None when to nothing."""
    framework = instance.config.get(FRAMEWORK_KEY, "")
    recipe = host.recipes.get(framework)
    if recipe is None:
        return None
    return find_newest(
        framework,
        host.arch,
        current=instance.config.get(VERSION_KEY, ""),
        recipe_version=recipe.version,
        image_version=image_version,
    )


async def find_target(instance: Instance, host: Host) -> Target:
    """What the agent of this instance becomes; Conflict when there is nothing newer."""
    framework = instance.config[FRAMEWORK_KEY]
    return plan_upgrade(
        framework,
        host.arch,
        current=instance.config.get(VERSION_KEY, ""),
        recipe_version=host.recipes[framework].version,
        image_version=await find_image_version(framework, host),
    )


async def find_image_version(framework: str, host: Host) -> str:
    """The version of the framework's image on this host, or nothing."""
    image = await find_image(host.incus, image_alias(framework, host.arch), host.arch)
    return image.properties.get("taos.version", "") if image else ""


class ImageVersions:
    """The versions of the images on this host, for lists: they are looked at again now and then."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[str, str] = {}
        self._seen: tuple[int, datetime] | None = None

    async def look(self, frameworks: Iterable[str]) -> Mapping[str, str]:
        """The version of each framework's image here, or nothing.

        Jobs bring and take images, so one that ended has them looked at again; so has time, as
        somebody may do the same in Incus. While Incus is away they are as they were.
        """
        ended, now = self._host.runner.ended, self._host.now()
        wanted = set(frameworks) - self._known.keys()
        # Whoever looks at the same moment need not ask the same.
        self._known |= dict.fromkeys(wanted, "")
        if self._seen is None or self._seen[0] != ended or now - self._seen[1] > LOOK_EVERY:
            self._seen = ended, now
            wanted = set(self._known)
        with contextlib.suppress(IncusError, TimeoutError):
            async with asyncio.timeout(LOOK_WITHIN):
                for framework in wanted:
                    self._known[framework] = await find_image_version(framework, self._host)
        return self._known


async def upgrade_agent(job: JobContext, host: Host) -> None:
    """Give the agent a new root; it is proven when the agent answers."""
    name = job.params["instance"]
    if not await _is_switched(name, job, host):
        if await host.incus.instances.find(name):
            target = await _choose(name, job, host)
            await ensure_next(name, target, job, host)
            await ensure_stopped(name, job, host)
            await ensure_state_kept(name, job, host)
        await ensure_switched(name, job, host)
    await ensure_started(name, job, host)
    new = await host.incus.instances.get(name)
    recipe = host.recipes[new.config[FRAMEWORK_KEY]]
    await ensure_door(name, recipe, job, host)
    await ensure_answering(name, recipe, job, host)
    if job.params["was_running"] != "True":
        await instances.stop(name, host, within=STOP_WITHIN)


async def undo_upgrade(job: JobContext, host: Host) -> None:
    """The old root and the old state, running if they were.

    Where somebody removed the old root meanwhile, there is nothing to return to: the new one stays.
    """
    name = job.params["instance"]
    if await _find_replaced(name, job, host) or not await _is_switched(name, job, host):
        await bring_back(name, host, replaced_by=job.job.id)
        await ensure_state_back(name, _snapshot_name(job), host)
    await instances.remove_root(next_name(name), host)
    if job.params["was_running"] == "True":
        with contextlib.suppress(NotFound):
            await instances.start(name, host)


async def check_snapshot(name: str, snapshot: str, host: Host) -> None:
    """Conflict unless the state from before the upgrade is there."""
    if not await has_snapshot(name, snapshot, host):
        raise Conflict(
            "The state from before the upgrade is gone, so the upgrade cannot be undone.",
            hint="The agent stays as it is. A snapshot of its state can be restored.",
        )


async def return_agent(job: JobContext, host: Host) -> None:
    """Undo an upgrade that succeeded: the root and the state from before it.

    The state as it is now is kept as a snapshot, so nothing is lost. The new root is set aside, and
    removed when the agent has answered: until then all can be as it was again.
    """
    name = job.params["instance"]
    running = job.params["was_running"] == "True"
    job.plan_steps(*(one for one in UNDO_STEPS if running or one not in (START, READY)))
    if not job.job.committed:
        if not await _is_back(name, job, host):
            await ensure_state_of_before(name, job, host)
        await ensure_exchanged(name, job, host)
        if running:
            with job.step(START):
                await instances.start(name, host)
            old = await host.incus.instances.get(name)
            await ensure_answering(name, host.recipes[old.config[FRAMEWORK_KEY]], job, host)
    with job.step(REMOVE_NEW):
        job.commit()
        await instances.remove_root(next_name(name), host)
        await _drop_snapshot(name, job.params["snapshot"], host)
        await instances.set_config(name, UNMARKED, host)


async def undo_return(job: JobContext, host: Host) -> None:
    """The new root again, with the state that it had, running if it was."""
    name, ours = job.params["instance"], job.job.id
    aside = await host.incus.instances.find(next_name(name))
    if aside and aside.config.get(REPLACED_KEY) == ours:
        if await host.incus.instances.find(name):
            await instances.stop(name, host, within=STOP_WITHIN)
            await instances.set_config(name, {ROLE_KEY: PREVIOUS}, host)
            await host.incus.instances.rename(name, previous_name(name))
        await host.incus.instances.rename(aside.name, name)
    new = await host.incus.instances.find(name)
    if new and new.config.get(REPLACED_KEY) == ours:
        await instances.set_config(name, {ROLE_KEY: "", REPLACED_KEY: ""}, host)
    await ensure_state_back(name, _undone_name(job), host)
    if job.params["was_running"] == "True":
        with contextlib.suppress(NotFound):
            await instances.start(name, host)


async def ensure_state_of_before(name: str, job: JobContext, host: Host) -> None:
    """The state from before the upgrade, at rest; as it is now it is kept as a snapshot."""
    await check_snapshot(name, job.params["snapshot"], host)
    pool = await instances.pick_pool(host)
    with job.step(STOP):
        if await host.incus.instances.find(name):
            await instances.stop(name, host, within=STOP_WITHIN)
    with job.step(SNAPSHOT), contextlib.suppress(AlreadyExists):
        await host.incus.storage.create_volume_snapshot(
            pool.name, f"{name}-state", _undone_name(job)
        )
    with job.step(RESTORE):
        await host.incus.storage.restore_volume_snapshot(
            pool.name, f"{name}-state", job.params["snapshot"]
        )


async def ensure_exchanged(name: str, job: JobContext, host: Host) -> None:
    """The old root under the agent's name, the new one aside."""
    with job.step(BACK):
        new = await host.incus.instances.find(name)
        old = await host.incus.instances.find(previous_name(name))
        if old is None and not await _is_back(name, job, host):
            raise Conflict(
                "The old root is gone, so the upgrade cannot be undone.",
                hint="The agent stays as it is.",
            )
        if new and old:
            # What has that name is no agent's: here the agent has its own.
            await instances.remove_root(next_name(name), host)
            marks = {ROLE_KEY: NEXT, REPLACED_KEY: job.job.id}
            await instances.set_config(name, marks, host)
            await host.incus.instances.rename(name, next_name(name))
        if old:
            await host.incus.instances.rename(old.name, name)
        # The other marks go when there is no way back any more.
        await instances.set_config(name, {ROLE_KEY: ""}, host)


async def _is_back(name: str, job: JobContext, host: Host) -> bool:
    """Whether the old root has the agent's name again."""
    found = await host.incus.instances.find(name)
    return found is not None and found.config.get(REPLACED_KEY) == job.params["replaced_by"]


async def remove_previous(job: JobContext, host: Host) -> None:
    """End the undo window: the old root and the snapshot of its state go."""
    job.plan_steps(TIDY)
    with job.step(TIDY):
        job.commit()
        await drop_previous(job.params["instance"], host)


async def drop_previous(name: str, host: Host) -> None:
    """Remove the agent's old root, and before it the snapshot that only it tells of."""
    if previous := await host.incus.instances.find(previous_name(name)):
        await _drop_snapshot(name, previous.config.get(SNAPSHOT_KEY, ""), host)
        await instances.remove_root(previous.name, host)


async def _drop_snapshot(name: str, snapshot: str, host: Host) -> None:
    if snapshot:
        pool = await instances.pick_pool(host)
        with contextlib.suppress(NotFound):
            await host.incus.storage.delete_volume_snapshot(pool.name, f"{name}-state", snapshot)


async def _choose(name: str, job: JobContext, host: Host) -> Target:
    with job.step(PLAN):
        target = await _begun(name, job, host) or await find_target(
            await host.incus.instances.get(name), host
        )
        job.choose_source(target.plan.source, target.plan.reason)
        job.plan_steps(*(STEPS if target.plan.source == "build" else IMAGE_STEPS))
        return target


async def _begun(name: str, job: JobContext, host: Host) -> Target | None:
    """What this job was making before a crash, if that can still be used."""
    found = await host.incus.instances.find(next_name(name))
    if found is None:
        return None
    source = found.config.get(SOURCE_KEY, "")
    half = source == "build" and found.config.get(STAGE_KEY) != BUILT
    if half or found.config.get(JOB_KEY) != job.job.id:
        await instances.remove_root(found.name, host)
        return None
    plan = LaunchPlan("image" if source == "image" else "build", "", "begun earlier")
    return Target(plan, found.config[VERSION_KEY])


async def ensure_next(name: str, target: Target, job: JobContext, host: Host) -> None:
    """The new root as an instance of its own, complete but for its name; the old one works on."""
    old = await host.incus.instances.get(name)
    recipe = host.recipes[old.config[FRAMEWORK_KEY]]
    if target.plan.source == "build":
        with job.step(BASE):
            await host.builder.ensure_base(recipe, job.note)
    new = next_name(name)
    with job.step(CREATE):
        found = await host.incus.instances.find(new)
        if found is None:
            request = _next_request(old, await _image(target, host), target, job)
            found = await host.incus.instances.create(request, start=target.plan.source == "build")
    if target.plan.source == "build":
        with job.step(INSTALL):
            if found.config.get(STAGE_KEY) != BUILT:
                await host.builder.build(recipe, new, job.note)
                await instances.set_config(new, {STAGE_KEY: BUILT}, host)


async def _image(target: Target, host: Host) -> Image:
    image = await find_image(host.incus, target.plan.image, host.arch)
    if image is None:
        raise HostNotReady(
            f"The image {target.plan.image} is gone.", hint="Upgrade again; taOS takes another way."
        )
    return image


def _next_request(old: Instance, image: Image, target: Target, job: JobContext) -> InstanceRequest:
    """The new instance: all that was set on the old one, but no door yet and nobody's name."""
    kept = {key: value for key, value in old.config.items() if not key.startswith(OWN)}
    config = kept | {
        ROLE_KEY: NEXT,
        JOB_KEY: job.job.id,
        VERSION_KEY: target.version,
        SOURCE_KEY: target.plan.source,
    }
    del config[STAGE_KEY]
    if base := old.config.get("volatile.idmap.base", ""):
        # Incus refuses a volume to two instances whose users are not the same numbers outside.
        config["security.idmap.base"] = base
    devices = {device: keys for device, keys in old.devices.items() if keys["type"] != "proxy"}
    # The state is the old one's until both have stopped.
    devices.pop(STATE, None)
    if target.plan.source == "build":
        # As in a deploy: the policy begins when the building has ended.
        devices.pop(NIC, None)
    return InstanceRequest(
        name=next_name(old.name),
        image=image.fingerprint,
        description=old.description,
        config=config,
        devices=devices,
    )


async def ensure_stopped(name: str, job: JobContext, host: Host) -> None:
    """Stop both roots."""
    with job.step(STOP):
        await instances.stop(name, host, within=STOP_WITHIN)
        await instances.stop(next_name(name), host, within=STOP_WITHIN)


async def ensure_state_kept(name: str, job: JobContext, host: Host) -> None:
    """A snapshot of the state at rest, to come back to."""
    with job.step(SNAPSHOT), contextlib.suppress(AlreadyExists):
        pool = await instances.pick_pool(host)
        await host.incus.storage.create_volume_snapshot(
            pool.name, f"{name}-state", _snapshot_name(job)
        )


async def ensure_switched(name: str, job: JobContext, host: Host) -> None:
    """Exchange the names: the agent is whatever instance has its name."""
    with job.step(SWITCH):
        if old := await host.incus.instances.find(name):
            # There is one way back only: to the root from before this upgrade.
            await drop_previous(name, host)
            await _hand_over(old, job, host)
            await host.incus.instances.rename(name, previous_name(name))
        await host.incus.instances.rename(next_name(name), name)
        await instances.set_config(name, {ROLE_KEY: "", STAGE_KEY: DEPLOYED}, host)


async def _hand_over(old: Instance, job: JobContext, host: Host) -> None:
    """Give the new root what makes it this agent, and mark the old one."""
    new = next_name(old.name)
    kept = {name: old.devices[name] for name in (STATE, NIC) if name in old.devices}
    await host.incus.instances.update(new, devices=kept)
    await instances.set_config(
        old.name,
        {
            ROLE_KEY: PREVIOUS,
            REPLACED_KEY: job.job.id,
            SNAPSHOT_KEY: _snapshot_name(job),
            SINCE_KEY: host.now().isoformat(timespec="seconds"),
        },
        host,
    )


async def ensure_started(name: str, job: JobContext, host: Host) -> None:
    """Start the new root."""
    with job.step(START):
        await ensure_nic(name, host)
        await instances.set_config(name, {ROLE_KEY: "", STAGE_KEY: DEPLOYED}, host)
        await push_env(job.params["agent"], name, host)
        # A new root: Incus writes the agent's name into it.
        await host.incus.instances.start(name)


async def bring_back(name: str, host: Host, *, replaced_by: str) -> None:
    """The old root under its name again, if it was replaced by that job."""
    previous = await host.incus.instances.find(previous_name(name))
    if previous and previous.config.get(REPLACED_KEY) == replaced_by:
        await instances.remove_root(name, host)
        await host.incus.instances.rename(previous.name, name)
    # Marked but not renamed yet, when the server died between the two.
    old = await host.incus.instances.find(name)
    if old and old.config.get(ROLE_KEY) == PREVIOUS:
        await instances.set_config(name, UNMARKED, host)


async def _find_replaced(name: str, job: JobContext, host: Host) -> Instance | None:
    """The old root, if this job has replaced it."""
    found = await host.incus.instances.find(previous_name(name))
    return found if found and found.config.get(REPLACED_KEY) == job.job.id else None


async def _is_switched(name: str, job: JobContext, host: Host) -> bool:
    """Whether the instance of the agent's name is this job's new root already."""
    found = await host.incus.instances.find(name)
    return found is not None and found.config.get(JOB_KEY) == job.job.id


def _snapshot_name(job: JobContext) -> str:
    return f"before-{job.job.id}"


def _undone_name(job: JobContext) -> str:
    return f"undone-{job.job.id}"
