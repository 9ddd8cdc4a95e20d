"""An agent's life after its deploy: start, stop, restart, delete; each a job that may run twice."""

from __future__ import annotations

import contextlib

from tinyagentos.agents import instances
from tinyagentos.agents.deploy import ensure_answering, ensure_door
from tinyagentos.agents.host import Host
from tinyagentos.agents.kept import keep_state
from tinyagentos.agents.network import ensure_nic
from tinyagentos.agents.order import FRAMEWORK_KEY
from tinyagentos.agents.steps import CONNECT, READY
from tinyagentos.incus import Instance, NotFound
from tinyagentos.jobs.context import JobContext

STOP, START, REMOVE = "stop instance", "start instance", "remove instance and state"
# What systemd gives a unit to stop is 90 s; Incus's stop waits for the whole instance.
STOP_WITHIN = 30


async def start_agent(job: JobContext, host: Host) -> None:
    """Start the instance and wait until the agent answers."""
    job.plan_steps(START, CONNECT, READY)
    instance = await _instance(job, host)
    with job.step(START):
        await ensure_nic(instance.name, host)
        if instance.status != "Running":
            await instances.start(instance.name, host)
    await _ensure_ready(instance, job, host)


async def stop_agent(job: JobContext, host: Host) -> None:
    """Stop the instance, by force when the agent does not go by itself."""
    job.plan_steps(STOP)
    instance = await _instance(job, host)
    with job.step(STOP):
        await instances.stop(instance.name, host, within=STOP_WITHIN)


async def restart_agent(job: JobContext, host: Host) -> None:
    """Stop, start, wait until the agent answers."""
    job.plan_steps(STOP, START, CONNECT, READY)
    instance = await _instance(job, host)
    with job.step(STOP):
        await instances.stop(instance.name, host, within=STOP_WITHIN)
    with job.step(START):
        await ensure_nic(instance.name, host)
        await instances.start(instance.name, host)
    await _ensure_ready(instance, job, host)


async def undo_power(job: JobContext, host: Host) -> None:
    """The agent runs if it ran before, else it is stopped again.

    One that did not become ready is left as it is: its log tells why.
    """
    name = job.params["instance"]
    with contextlib.suppress(NotFound):
        if job.params["was_running"] == "True":
            await instances.start(name, host)
        elif job.job.error is None:
            await instances.stop(name, host, within=STOP_WITHIN)


async def delete_agent(job: JobContext, host: Host) -> None:
    """Remove the agent's instance and state; from its first removal on there is no way back.

    With `keep_state` of the job only the instance goes.
    """
    job.plan_steps(REMOVE)
    name = job.params["instance"]
    with job.step(REMOVE):
        if job.params["keep_state"] == "True":
            # In order: an agent that is killed leaves its state looking as if somebody had it open.
            with contextlib.suppress(NotFound):
                await instances.stop(name, host, within=STOP_WITHIN)
            job.commit()
            await instances.remove_roots(name, host)
            await keep_state(name, job.params["framework"], host, job.params["owner"])
        else:
            job.commit()
            await instances.remove(name, host)


async def _instance(job: JobContext, host: Host) -> Instance:
    return await host.incus.instances.get(job.params["instance"])


async def _ensure_ready(instance: Instance, job: JobContext, host: Host) -> None:
    recipe = host.recipes[instance.config[FRAMEWORK_KEY]]
    # One that an older taOS made may lack a door.
    await ensure_door(instance.name, recipe, job, host)
    await ensure_answering(instance.name, recipe, job, host)
