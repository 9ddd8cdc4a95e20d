"""What is in Incus and on disk, compared with the jobs that are at work: leftovers are put right.

Jobs undo what they do, also after a crash. What is left then comes from elsewhere: a database that
was lost or restored, somebody's hand, a host that was full. What an agent knows is never removed:
a state without an agent becomes a kept one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tinyagentos.agents import instances
from tinyagentos.agents.host import Host
from tinyagentos.agents.kept import keep_state
from tinyagentos.agents.order import AGENT_KEY, FRAMEWORK_KEY, KEPT_KEY
from tinyagentos.agents.roles import NEXT, ROLE_KEY
from tinyagentos.incus import Instance, NotFound, Volume
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import Conflict
from tinyagentos.model.job import Job

_log = logging.getLogger(__name__)
LEFTOVER, REMOVE = "remove leftover", "remove"
STATE = "-state"
_COPY = re.compile(r".+-export-[0-9a-z]+")


@dataclass(frozen=True)
class Leftovers:
    """What nobody works on: roots of upgrades, copies of exports, sockets, agentless states."""

    roots: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    states: tuple[Volume, ...] = ()


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
    agents = {job.subject.partition(":")[2] for job in jobs}
    names = {one.name for one in found}
    ours = [one for one in found if AGENT_KEY in one.config]
    marked = [one for one in volumes if AGENT_KEY in one.config]
    return Leftovers(
        roots=tuple(
            one.name for one in ours
            if one.config.get(ROLE_KEY) == NEXT and one.config[AGENT_KEY] not in agents
        ),
        copies=tuple(
            one.name for one in marked
            if _COPY.fullmatch(one.name) and one.name.rpartition("-export-")[0] not in busy
        ),
        sockets=tuple(one for one in sockets if one not in names and one not in busy),
        states=tuple(
            one for one in marked
            if one.name.endswith(STATE) and not one.config.get(KEPT_KEY)
            and not one.used_by
            and not {one.name, one.name.removesuffix(STATE)} & (busy | names)
        ),
    )  # fmt: skip


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
    """Put right what is left over; what was found."""
    left = await look(host)
    for name in left.sockets:
        host.socket(name).unlink(missing_ok=True)
    for one in left.states:
        framework = one.config.get(FRAMEWORK_KEY, "")
        await keep_state(one.name.removesuffix(STATE), framework, host)
    for kind, names in (("root", left.roots), ("copy", left.copies)):
        for name in names:
            _submit(kind, name, host)
    if left != Leftovers():
        _log.warning("leftovers were put right", extra={"found": str(left)})
    return left


def _submit(kind: str, name: str, host: Host) -> None:
    try:
        host.runner.submit(LEFTOVER, f"leftover:{name}", {kind: name})
    except Conflict:
        return  # it is being removed


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
