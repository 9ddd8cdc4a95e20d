"""What is asked of agents, checked, and as a job keeps it. Nothing is begun here.

A job that is retried is the same request at another time: `*_again` reads out of the old job what
was asked, and has it checked as things are now. What a job is to return to, and which instance it
is about, is therefore never older than its job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from tinyagentos.agents import (
    bundle,
    instances,
    keep,
    kept,
    network,
    reconcile,
    settings,
    snapshots,
    upgrade,
)
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import (
    AGENT_KEY,
    FRAMEWORK_KEY,
    JOB_KEY,
    KEPT_KEY,
    STAGE_KEY,
    DeployOrder,
    make_order,
)
from tinyagentos.agents.plan import check_disk, check_memory, check_memory_limit
from tinyagentos.agents.record import certain_agents, find_agent, no_agent
from tinyagentos.agents.roles import (
    REPLACED_KEY,
    SNAPSHOT_KEY,
    previous_name,
    replaced_at,
)
from tinyagentos.agents.steps import DEPLOY, DEPLOYED
from tinyagentos.host.files import check_new_file
from tinyagentos.host.room import read_room
from tinyagentos.images.supply import is_image_present
from tinyagentos.incus import Instance
from tinyagentos.model.agent import MIB, AgentChange, AgentSpec, Source, check_agent_name
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound
from tinyagentos.model.job import Job
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.model.provider import ModelChoice, check_choice, parse_model
from tinyagentos.model.recipe import Recipe

LEAST_MEMORY_MB = 64
MOST_MEMORY_MB = 1024 * 1024
LEAST_DISK_MB = 256
MOST_CPUS = 1024
START, STOP, RESTART, DELETE = "start", "stop", "restart", "delete"
UPGRADE_ALL = "upgrade all"
Power = Literal["start", "stop", "restart"]
Params = Mapping[str, str]
_CHANGE = TypeAdapter(AgentChange)


@dataclass(frozen=True)
class Request:
    """A checked request: a job that can be begun."""

    kind: str
    subject: str
    params: Params


def agent_subject(name: str) -> str:
    """What a job on an agent holds: one at a time."""
    return f"agent:{name}"


def agent_of(job: Job) -> str:
    """The agent that the job holds."""
    return job.subject.partition(":")[2]


def check_free(name: str, host: Host) -> None:
    """Conflict while a job is at work on the agent."""
    if job := host.runner.find_active(agent_subject(name)):
        raise Conflict(
            f"A {job.kind} job is at work on agent {name!r} already.",
            hint=f"Watch it with `taos job watch {job.id}`, or cancel it first.",
        )


async def get_instance(name: str, host: Host) -> Instance:
    """The agent's instance.

    Raises NotFound, or Conflict with the job while that is making the agent or exchanging its
    roots: lists show such an agent. Conflict too when it is not certain which one is meant.
    """
    if found := await find_agent(name, host.incus):
        return found
    check_free(name, host)
    raise no_agent(name)


def _on(instance: Instance, kind: str, **params: str) -> Request:
    """A job on the agent of the instance, which knows how it was before."""
    agent = instance.config[AGENT_KEY]
    held = {"instance": instance.name, "agent": agent, "was_running": str(instance.is_running)}
    return Request(kind, agent_subject(agent), held | params)


async def _same_agent(job: Job, host: Host) -> str:
    """The name of the job's agent; Conflict when another one has it now."""
    name = agent_of(job)
    if (await get_instance(name, host)).name != job.params["instance"]:
        raise Conflict(
            f"The agent {name!r} that the job was about is gone; there is another one now.",
            hint="Ask for the same with the new one.",
        )
    return name


# Deploy


async def request_deploy(spec: AgentSpec, host: Host) -> Request:
    """A job that deploys the agent.

    Raises InvalidInput, Conflict (name taken), NoSpace (memory or disk, with numbers), and what
    the Incus client raises when Incus does not answer.
    """
    recipe = _check_spec(spec, host)
    await _check_name_free(spec.name, host)
    await _check_room(recipe, spec.source, host)
    state, least = await _find_state(spec, host) if spec.state_of else ("", 0)
    order = make_order(spec, recipe, host.new_suffix(), state, least)
    return Request(DEPLOY, agent_subject(spec.name), order.to_params())


async def deploy_again(job: Job, host: Host) -> Params:
    """The same agent, as another instance: of the first nothing is left."""
    order = DeployOrder.from_params(job.params)
    spec = AgentSpec(
        name=order.agent,
        framework=order.framework,
        source=order.source,
        model=order.model,
        memory_bytes=order.memory_bytes,
        cpus=order.cpus or None,
        disk_bytes=order.disk_bytes,
        state_bytes=order.state_bytes or None,
        network=order.network,
        state_of=order.kept,
        nesting=order.nesting,
        fallbacks=tuple(filter(None, order.fallbacks.split(","))),
        monthly_tokens=order.monthly_tokens,
        title=order.title,
        autostart=order.autostart,
        idle_stop_minutes=order.idle_stop_minutes,
        snapshots=order.snapshots,
    )
    return (await request_deploy(spec, host)).params


def _check_spec(spec: AgentSpec, host: Host) -> Recipe:
    check_agent_name(spec.name)
    NetworkPolicy.parse(spec.network)
    named = (spec.model, *spec.fallbacks)
    models = tuple(parse_model(one) for one in named if one)
    check_choice(ModelChoice(models, spec.monthly_tokens))
    settings.check_title(spec.title)
    settings.check_idle(spec.idle_stop_minutes)
    recipe = host.recipes.get(spec.framework)
    if recipe is None:
        raise InvalidInput(
            f"There is no framework {spec.framework[:60]!r}.",
            hint=f"There are: {', '.join(host.recipes)}.",
        )
    _check_memory_limit(spec.memory_bytes, host)
    # What an image unpacks to counts, and a root that is full cannot even be changed.
    check_range("disk", spec.disk_bytes, recipe.agent.image_disk_bytes, 2**62)
    check_range("state disk", spec.state_bytes, LEAST_DISK_MB * MIB, 2**62)
    check_range("cpu", spec.cpus, 1, MOST_CPUS)
    return recipe


async def _check_name_free(name: str, host: Host) -> None:
    check_free(name, host)
    for one in await host.incus.instances.list():
        # Whatever its role: a root that lost its agent becomes the agent again (reconcile.py).
        if one.config.get(AGENT_KEY) == name:
            raise Conflict(
                f"There is an agent {name!r} already.",
                hint="Choose another name, or delete that one first.",
            )


def memory_available(host: Host) -> int:
    """Bytes of memory that deploys may take at all."""
    return host.memory_available() - host.settings.memory_reserve_mb * MIB


def memory_promised(host: Host) -> int:
    """What deploys under way will still take."""
    return sum(
        host.recipes[job.params["framework"]].agent.memory_need_bytes
        for job in host.runner.list_active()
        if job.kind == DEPLOY
    )


async def _check_room(recipe: Recipe, source: Source, host: Host) -> None:
    check_memory(
        recipe.agent.memory_need_bytes,
        available_bytes=memory_available(host),
        promised_bytes=memory_promised(host),
    )
    present = await is_image_present(host.incus, recipe.name, host.arch)
    if not present and source is Source.image:
        host.images.start_download(recipe.name)
    await _check_disk(recipe, by_image=present, host=host)


async def _check_disk(recipe: Recipe, *, by_image: bool, host: Host) -> None:
    pool = await instances.pick_pool(host)
    need = recipe.agent.image_disk_bytes if by_image else recipe.agent.build_disk_bytes
    check_disk(need, await read_room(host.incus, pool.name))


async def _find_state(spec: AgentSpec, host: Host) -> tuple[str, int]:
    """The kept state that the new agent begins with, and the least limit that leaves it room.

    Conflict when another one took it, or the limit that is asked for would not do.
    """
    name = await kept.find_kept(spec.state_of, spec.framework, host)
    if any(job.params.get("kept") == name for job in host.runner.list_active()):
        raise Conflict(
            f"Another deploy takes the state of {spec.state_of!r} already.",
            hint="`taos job list` shows it.",
        )
    use = await settings.read_state_use(name, host)
    if spec.state_bytes:
        settings.check_state(spec.state_bytes, use)
    return name, use.least_bytes


async def keep_again(job: Job, host: Host) -> Params:
    """The image of the same installation, if that is still there as it was made."""
    instance = job.params["instance"]
    if await host.incus.instances.find(instance):
        for one in await host.incus.instances.list_snapshots(instance):
            if one.name == keep.SNAPSHOT:
                return job.params
    raise Conflict(
        "The fresh installation that the image was to be made of is gone.",
        hint=f"Another one is kept after the next build: "
        f"`taos agent deploy NAME --framework {job.params['framework']} --source build`.",
    )


# Power


async def request_power(name: str, action: Power, host: Host) -> Request:
    """A job that starts, stops or restarts the agent."""
    return _on(await get_instance(name, host), action)


def request_stop(instance: Instance) -> Request:
    """A job that stops the agent of the instance."""
    return _on(instance, STOP)


async def power_again(job: Job, host: Host) -> Params:
    """The same, from how the agent is now."""
    return _on(await get_instance(await _same_agent(job, host), host), job.kind).params


# Upgrade


async def request_upgrade(name: str, host: Host) -> Request:
    """A job that gives the agent a new root.

    Raises Conflict when there is nothing newer, NoSpace when the pool has no room for it.
    """
    instance = await get_instance(name, host)
    check_free(name, host)
    target = await upgrade.find_target(instance, host)
    framework = instance.config[FRAMEWORK_KEY]
    by_image = target.plan.source == "image"
    await _check_disk(host.recipes[framework], by_image=by_image, host=host)
    return _on(instance, upgrade.UPGRADE, framework=framework, version=target.version)


async def upgrade_again(job: Job, host: Host) -> Params:
    """To what is newest now."""
    return (await request_upgrade(await _same_agent(job, host), host)).params


async def request_upgrade_all(host: Host) -> Request:
    """A job that upgrades every agent that can be; Conflict when none can."""
    newer = sorted(await _find_upgradable(host))
    if not newer:
        raise Conflict(
            "Every agent has the newest version known here.",
            hint="`taos image list` shows what is here.",
        )
    return Request(UPGRADE_ALL, "all:agents", {"agents": json.dumps(newer)})


async def upgrade_all_again(job: Job, host: Host) -> Params:
    """Those that can be upgraded now."""
    return (await request_upgrade_all(host)).params


async def _find_upgradable(host: Host) -> set[str]:
    """The agents that there is something newer for."""
    agents = [
        one for one in certain_agents(await host.incus.instances.list())
        if one.config.get(STAGE_KEY) == DEPLOYED
        and one.config.get(FRAMEWORK_KEY) in host.recipes
    ]  # fmt: skip
    frameworks = {one.config[FRAMEWORK_KEY] for one in agents}
    images = {name: await upgrade.find_image_version(name, host) for name in frameworks}
    return {
        one.config[AGENT_KEY]
        for one in agents
        if upgrade.find_newest_for(one, images[one.config[FRAMEWORK_KEY]], host)
    }


async def request_undo(name: str, host: Host) -> Request:
    """A job that returns the agent to root and state from before its last upgrade."""
    instance = await get_instance(name, host)
    previous = await host.incus.instances.find(previous_name(instance.name))
    if previous is None or not previous.config.get(REPLACED_KEY):
        raise Conflict(
            f"There is no upgrade of {name!r} to undo.",
            hint=f"An old root is kept for {host.settings.undo_hours} hours.",
        )
    snapshot = previous.config.get(SNAPSHOT_KEY, "")
    await upgrade.check_snapshot(instance.name, snapshot, host)
    return _on(
        instance,
        upgrade.UNDO,
        snapshot=snapshot,
        replaced_by=previous.config[REPLACED_KEY],
        framework=instance.config.get(FRAMEWORK_KEY, ""),
    )


async def undo_again(job: Job, host: Host) -> Params:
    """To what there is to return to now."""
    return (await request_undo(await _same_agent(job, host), host)).params


def is_window_over(previous: Instance, host: Host) -> bool:
    """Whether nobody returned to the old root in time."""
    since = replaced_at(previous.config)
    return since is not None and host.now() - since >= timedelta(hours=host.settings.undo_hours)


def request_end_of_window(previous: Instance) -> Request:
    """A job that removes the old root."""
    name = previous.name.removesuffix(previous_name(""))
    return Request(upgrade.FORGET, agent_subject(previous.config[AGENT_KEY]), {"instance": name})


async def end_of_window_again(job: Job, host: Host) -> Params:
    """The same old root, unless another upgrade has left one there since."""
    previous = await host.incus.instances.find(previous_name(job.params["instance"]))
    if previous is None or not is_window_over(previous, host):
        raise Conflict(
            "There is no old root whose time is over.",
            hint="Nothing has to be done: it is looked for every hour.",
        )
    return job.params


# Changes


async def request_network(name: str, written: str, host: Host) -> Request:
    """A job that has the agent reach what the policy opens; it goes on running."""
    policy = NetworkPolicy.parse(written)
    instance = await get_instance(name, host)
    previous = str(network.read_policy(instance.config))
    return _on(instance, network.NETWORK, policy=str(policy), previous=previous)


async def network_again(job: Job, host: Host) -> Params:
    """The same policy."""
    return (await request_network(await _same_agent(job, host), job.params["policy"], host)).params


async def request_change(name: str, change: AgentChange, host: Host) -> Request:
    """A job that changes the agent as it runs.

    Raises InvalidInput, NotFound, or Conflict when the agent takes more than the new limit.
    """
    _check_memory_limit(change.memory_bytes, host)
    check_range("disk", change.disk_bytes, LEAST_DISK_MB * MIB, 2**62)
    check_range("state disk", change.state_bytes, LEAST_DISK_MB * MIB, 2**62)
    check_range("cpu", change.cpus, 0, MOST_CPUS)
    if change == AgentChange():
        raise InvalidInput("Nothing is to be changed.", hint="Name what to change.")
    instance = await get_instance(name, host)
    if instance.is_running and not (change.disk_bytes is change.state_bytes is None):
        await instances.count_disk(instance.name, host)
    if not (change.memory_bytes is change.disk_bytes is None):
        state = await host.incus.instances.state(instance.name)
        recipe = host.recipes[instance.config[FRAMEWORK_KEY]]
        settings.check_use(change, state, recipe.agent.image_disk_bytes)
    if change.state_bytes is not None:
        use = await settings.read_state_use(f"{instance.name}-state", host)
        settings.check_state(change.state_bytes, use)
    pool = await instances.pick_pool(host)
    keys = settings.plan_change(change, has_quota=instances.has_quota(pool))
    before = await settings.read_keys(instance, keys, host)
    return _on(
        instance,
        settings.CHANGE,
        change=_CHANGE.dump_json(change).decode(),
        keys=keys.to_text(),
        before=before.to_text(),
    )


async def change_again(job: Job, host: Host) -> Params:
    """The same change of how the agent is now."""
    change = _CHANGE.validate_json(job.params["change"])
    return (await request_change(await _same_agent(job, host), change, host)).params


# State


async def state_config(name: str, host: Host) -> Mapping[str, str]:
    """What is set on the volume of the agent's state."""
    pool = await instances.pick_pool(host)
    volume = f"{(await get_instance(name, host)).name}-state"
    return (await host.incus.storage.get_volume(pool.name, volume)).config


async def request_snapshot(name: str, called: str, host: Host) -> Request:
    """A job that keeps the agent's state; without a name it is called by the time."""
    instance = await get_instance(name, host)
    called = snapshots.check_snapshot_name(called or host.now().strftime("%Y%m%d-%H%M%S"))
    if called in {one.name for one in await snapshots.list_snapshots(instance.name, host)}:
        raise Conflict(
            f"There is a snapshot {called!r} of {name!r} already.", hint="Choose another name."
        )
    return _on(instance, snapshots.SNAPSHOT, snapshot=called)


async def snapshot_again(job: Job, host: Host) -> Params:
    """A snapshot of that name, of how the state is now."""
    return (
        await request_snapshot(await _same_agent(job, host), job.params["snapshot"], host)
    ).params


async def request_restore(name: str, snapshot: str, host: Host) -> Request:
    """A job that brings the agent's state back to the snapshot."""
    instance = await _get_with(name, snapshot, host)
    return _on(instance, snapshots.RESTORE, snapshot=snapshot)


async def restore_again(job: Job, host: Host) -> Params:
    """The same snapshot."""
    return (
        await request_restore(await _same_agent(job, host), job.params["snapshot"], host)
    ).params


async def request_drop(name: str, snapshot: str, host: Host) -> Request:
    """A job that removes the snapshot; Conflict while an upgrade can be undone with it."""
    instance = await _get_with(name, snapshot, host)
    previous = await host.incus.instances.find(previous_name(instance.name))
    if previous and previous.config.get(SNAPSHOT_KEY) == snapshot:
        raise Conflict(
            f"The last upgrade of {name!r} is undone with the snapshot {snapshot!r}.",
            hint=f"It goes by itself {host.settings.undo_hours} hours after the upgrade.",
        )
    return _on(instance, snapshots.DROP, snapshot=snapshot)


async def drop_again(job: Job, host: Host) -> Params:
    """The same snapshot."""
    return (await request_drop(await _same_agent(job, host), job.params["snapshot"], host)).params


async def _get_with(name: str, snapshot: str, host: Host) -> Instance:
    """The agent's instance, if its state has the snapshot."""
    instance = await get_instance(name, host)
    if snapshot not in {one.name for one in await snapshots.list_snapshots(instance.name, host)}:
        raise NotFound(
            f"Agent {name!r} has no snapshot {snapshot[:80]!r}.",
            hint=f"`taos agent snapshots {name}` lists them.",
        )
    return instance


# Files


async def request_export(name: str, file: Path, host: Host) -> Request:
    """A job that writes the agent, with all it knows, into a new file of this machine.

    Raises NotFound, InvalidInput, Conflict when the file is there already.
    """
    instance = await get_instance(name, host)
    check_new_file(file)
    told = json.dumps(bundle.describe(instance, await state_config(name, host)))
    return _on(instance, bundle.EXPORT, to=str(file), agent_file=told)


async def export_again(job: Job, host: Host) -> Params:
    """The agent as it is now, into the same file."""
    return (await request_export(await _same_agent(job, host), Path(job.params["to"]), host)).params


def request_import(carried: bundle.Carried, host: Host) -> Request:
    """A job that keeps the state in the file; InvalidInput for a framework that is not here."""
    _check_carried(carried, host)
    _check_spec(carried.agent, host)
    volume = f"{carried.agent.name}-{host.new_suffix()}-state"
    params = {"from": str(carried.path), "volume": volume}
    return Request(bundle.IMPORT, f"state:{volume}", params)


async def import_again(job: Job, host: Host) -> Params:
    """The same file into the same state: a deploy may have been told of it."""
    file = Path(job.params["from"])
    _check_carried(await asyncio.to_thread(bundle.read_carried, file), host)
    pool = await instances.pick_pool(host)
    if await host.incus.storage.find_volume(pool.name, job.params["volume"]):
        raise Conflict(
            f"There is a state {job.params['volume']} already.",
            hint="Import the file again; that makes another one.",
        )
    return job.params


def _check_carried(carried: bundle.Carried, host: Host) -> None:
    if carried.agent.framework not in host.recipes:
        raise InvalidInput(
            f"{carried.path.name} is an agent of {carried.agent.framework[:60]!r}, "
            "which this taOS has not.",
            hint=f"There are: {', '.join(host.recipes)}.",
        )


# Delete


async def request_delete(name: str, host: Host, *, keep_state: bool) -> Request:
    """A job that removes the agent and, unless it is to be kept, its state.

    Raises NotFound, or Conflict with the job while that is making the agent or exchanging its
    roots. An agent whose job cannot be rolled back can be deleted whatever is left of it.
    """
    found = await find_agent(name, host.incus)
    busy = host.runner.find_active(agent_subject(name))
    hindered = busy if busy and host.runner.is_hindered(busy.id) else None
    # What another agent knew would have been given back by the deploy's roll back: it is kept,
    # as that one's.
    borrowed = _is_borrowed(found, hindered, host)
    state = {"keep_state": str(keep_state or borrowed), "owner": "" if borrowed else name}
    if found is None and hindered:
        held = {"instance": hindered.params["instance"], "agent": name, "was_running": "False"}
        held |= {"framework": hindered.params.get("framework", "")}
        return Request(DELETE, agent_subject(name), held | state)
    instance = found or await get_instance(name, host)
    return _on(instance, DELETE, framework=instance.config.get(FRAMEWORK_KEY, ""), **state)


def _is_borrowed(instance: Instance | None, hindered: Job | None, host: Host) -> bool:
    """Whether a deploy that did not end began with a kept state."""
    if instance is None:
        return hindered is not None and bool(hindered.params.get("kept"))
    if instance.config.get(STAGE_KEY) == DEPLOYED:
        return False
    try:
        return bool(host.runner.get_job(instance.config.get(JOB_KEY, "")).params.get("kept"))
    except NotFound:
        return False


async def delete_again(job: Job, host: Host) -> Params:
    """The agent, or what the first try left of it."""
    if await find_agent(agent_of(job), host.incus) is None:
        pool = await instances.pick_pool(host)
        volume = f"{job.params['instance']}-state"
        left = await host.incus.storage.find_volume(pool.name, volume)
        if left and not left.config.get(KEPT_KEY):
            return job.params
    name, keep_state = await _same_agent(job, host), job.params["keep_state"] == "True"
    return (await request_delete(name, host, keep_state=keep_state)).params


async def leftover_again(job: Job, host: Host) -> Params:
    """The same, if it is still left over: its name may be in use again."""
    left = await reconcile.look(host)
    if {*job.params.values()} <= {*left.roots, *left.copies}:
        return job.params
    raise Conflict(
        "It is left over no more.", hint="Nothing has to be done: it is looked for every hour."
    )


async def return_again(job: Job, host: Host) -> Params:
    """The same agent, if it is still lost."""
    if job.params["instance"] in (await reconcile.look(host)).lost:
        return job.params
    raise Conflict("The agent is not lost any more.", hint="`taos agent list` shows the agents.")


def _check_memory_limit(limit: int | None, host: Host) -> None:
    """InvalidInput for a limit that cannot be, NoSpace for one that this host cannot give."""
    check_range("memory", limit, LEAST_MEMORY_MB * MIB, MOST_MEMORY_MB * MIB)
    if limit is not None:
        check_memory_limit(limit, total_bytes=host.memory_total())


def check_range(what: str, value: int | None, least: int, most: int) -> None:
    """InvalidInput unless the value, if there is one, is within the range."""
    if value is not None and not least <= value <= most:
        unit = f"{least // MIB} MiB" if least >= MIB else str(least)
        raise InvalidInput(
            f"{what} cannot be {value}.", hint=f"Give at least {unit} and at most {most}."
        )
