"""What is in Incus and on disk, compared with the jobs that are at work: leftovers are put right.

Jobs undo what they do, also after a crash. What is left then comes from elsewhere: a database that
was lost or restored, a roll back that Incus refused, somebody's hand, a host that was full. What an
agent knows is never removed: a state without an agent becomes a kept one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import starmap

from tinyagentos.agents import instances
from tinyagentos.agents.deploy import add_doors
from tinyagentos.agents.host import Host
from tinyagentos.agents.kept import keep_state
from tinyagentos.agents.order import (
    AGENT_KEY,
    DOOR,
    FRAMEWORK_KEY,
    KEPT_KEY,
    MODEL_DOOR,
    STAGE_KEY,
)
from tinyagentos.agents.record import is_agent, say_shared, shared_names
from tinyagentos.agents.roles import NEXT, PREVIOUS, ROLE_KEY, next_name, previous_name
from tinyagentos.agents.steps import DEPLOYED
from tinyagentos.agents.upgrade import STATE as STATE_DEVICE
from tinyagentos.agents.upgrade import UNMARKED
from tinyagentos.incus import IncusError, Instance, NotFound, Volume
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import Conflict
from tinyagentos.model.job import Job

_log = logging.getLogger(__name__)
LEFTOVER, REMOVE = "remove leftover", "remove"
RETURN, RENAME = "bring agent back", "make a root the agent"
STATE = "-state"
_COPY = re.compile(r".+-export-[0-9a-z]+")


@dataclass(frozen=True)
class Leftovers:
    """What nobody works on, and what agents lack.

    roots of upgrades, copies of exports, sockets, agentless states; lost: agents of which there are
    roots, but none is the agent; doorless: agents that nobody can reach; odd: sentences about what
    only a person can put right. owners: whose each root and lost agent is.
    """

    roots: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    states: tuple[Volume, ...] = ()
    lost: tuple[str, ...] = ()
    doorless: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict, compare=False)


def find_leftovers(
    sockets: Sequence[str],
    volumes: Sequence[Volume],
    found: Sequence[Instance],
    jobs: Sequence[Job],
) -> Leftovers:
    """What of these belongs to nothing.

    They have to be read in this order: what makes a socket or a volume begins with a job, and
    ends with one.
    """
    busy = {value for job in jobs for key in ("instance", "volume") if (value := _of(job, key))}
    at_work = {job.subject.partition(":")[2] for job in jobs}
    names = {one.name for one in found}
    ours = [one for one in found if AGENT_KEY in one.config]
    # Agents that there is any root of.
    rooted = {agent_name(one) for one in ours}
    idle = [one for one in ours if one.config[AGENT_KEY] not in at_work]
    agents = [one for one in ours if is_agent(one)]
    here = {one.name for one in agents}
    lost = {
        agent_name(one): one.config[AGENT_KEY] for one in idle
        if agent_name(one) not in here and _can_be_agent(one)
    }  # fmt: skip
    roots = {
        one.name: one.config[AGENT_KEY] for one in idle
        if one.config.get(ROLE_KEY) == NEXT and agent_name(one) not in lost
    }  # fmt: skip
    marked = [one for one in volumes if AGENT_KEY in one.config]
    whole = [one for one in agents if one in idle and one.config.get(STAGE_KEY) == DEPLOYED]
    return Leftovers(
        roots=tuple(roots),
        copies=tuple(
            one.name for one in marked
            if _COPY.fullmatch(one.name) and one.name.rpartition("-export-")[0] not in busy
        ),
        sockets=tuple(one for one in sockets if one not in names and one not in busy),
        states=tuple(
            one for one in marked
            if one.name.endswith(STATE) and not one.config.get(KEPT_KEY)
            and not one.used_by
            and not {one.name, one.name.removesuffix(STATE)} & (busy | names | rooted)
        ),
        lost=tuple(lost),
        doorless=tuple(one.name for one in whole if not {DOOR, MODEL_DOOR} <= one.devices.keys()),
        odd=(
            *starmap(say_shared, shared_names(agents).items()),
            *(_stateless(one) for one in whole if is_stateless(one)),
        ),
        owners=roots | lost,
    )  # fmt: skip


def agent_name(root: Instance) -> str:
    """The name of the agent's own instance, of which this one is or is not a root."""
    role = root.config.get(ROLE_KEY)
    suffix = {NEXT: next_name(""), PREVIOUS: previous_name("")}.get(role or "", "")
    return root.name.removesuffix(suffix)


def is_stateless(agent: Instance) -> bool:
    """Whether what the agent knows is not attached to it."""
    return STATE_DEVICE not in agent.devices


def _can_be_agent(root: Instance) -> bool:
    """Whether the root was the agent once; one that an upgrade was making never was."""
    return root.config.get(ROLE_KEY) == PREVIOUS or root.config.get(STAGE_KEY) == DEPLOYED


def _stateless(agent: Instance) -> str:
    return f"The state of the agent {agent.config[AGENT_KEY]!r} is not attached to {agent.name}."


def _of(job: Job, key: str) -> str:
    return job.params.get(key, "")


async def look(host: Host) -> Leftovers:
    """What is left over now."""
    pool = (await instances.pick_pool(host)).name
    sockets = [path.stem for path in host.settings.agent_sockets.glob("*.sock")]
    volumes = await host.incus.storage.list_volumes(pool)
    found = await host.incus.instances.list()
    return find_leftovers(sockets, volumes, found, host.runner.list_active())


async def reconcile(host: Host) -> Leftovers:
    """Put right what is left over and say what cannot be; what was found."""
    left = await look(host)
    for name in left.roots:
        # The agent's own subject: an upgrade makes a root of that name.
        _submit(LEFTOVER, f"agent:{left.owners[name]}", {"root": name}, host)
    for name in left.copies:
        _submit(LEFTOVER, f"leftover:{name}", {"copy": name}, host)
    for name in left.lost:
        _submit(RETURN, f"agent:{left.owners[name]}", {"instance": name}, host)
    for name in left.sockets:
        host.socket(name).unlink(missing_ok=True)
    for one in left.states:
        framework = one.config.get(FRAMEWORK_KEY, "")
        await _attempt(keep_state(one.name.removesuffix(STATE), framework, host), one.name)
    for name in left.doorless:
        await _attempt(_ensure_doors(name, host), name)
    for sentence in left.odd:
        _log.warning("%s Only a person can put that right, in Incus.", sentence)
    if replace(left, odd=()) != Leftovers():
        _log.warning("leftovers were put right", extra={"found": str(left)})
    return left


def _submit(kind: str, subject: str, params: Mapping[str, str], host: Host) -> None:
    try:
        host.runner.submit(kind, subject, params)
    except Conflict:
        return  # somebody is at work on it


async def _attempt(work: Awaitable[None], name: str) -> None:
    """One that Incus refuses is in no other's way."""
    try:
        await work
    except IncusError as error:
        _log.warning("%s could not be put right: %s", name, error)


async def _ensure_doors(name: str, host: Host) -> None:
    found = await host.incus.instances.get(name)
    if recipe := host.recipes.get(found.config.get(FRAMEWORK_KEY, "")):
        await add_doors(name, recipe, host)


async def bring_agent_back(job: JobContext, host: Host) -> None:
    """Have the best of an agent's roots be the agent again, as it is: the one it was last.

    What was on its way to become the agent goes; an old root stays for as long as it would.
    """
    job.plan_steps(RENAME)
    name = job.params["instance"]
    with job.step(RENAME):
        job.commit()
        found = await host.incus.instances.find(name)
        if found and not _can_be_agent(found):
            # A new root that has the name already, and was never started with the state.
            await instances.remove_root(name, host)
            found = None
        if found is None:
            for root in (previous_name(name), next_name(name)):
                if await host.incus.instances.find(root):
                    await host.incus.instances.rename(root, name)
                    break
        await instances.set_config(name, UNMARKED, host)
        await instances.remove_root(next_name(name), host)


async def remove_leftover(job: JobContext, host: Host) -> None:
    """Remove the root of an upgrade, or the copy of an export, that no job is at work on."""
    job.plan_steps(REMOVE)
    with job.step(REMOVE):
        job.commit()
        if root := job.params.get("root"):
            await instances.remove_root(root, host)
        if copy := job.params.get("copy"):
            pool = await instances.pick_pool(host)
            try:
                await host.incus.storage.delete_volume(pool.name, copy)
            except NotFound:
                return
