"""What the faces ask of agents: check a request, then hand back a job; show what there is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tinyagentos.agents import (
    bundle,
    expect,
    instances,
    kept,
    network,
    requests,
    settings,
    snapshots,
    upgrade,
)
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import (
    AGENT_KEY,
    AUTOSTART,
    FRAMEWORK_KEY,
    IDLE_KEY,
    NESTING,
    SOURCE_KEY,
    STAGE_KEY,
    TITLE_KEY,
    UNIT,
    VERSION_KEY,
)
from tinyagentos.agents.reconcile import is_stateless
from tinyagentos.agents.record import (
    certain_agents,
    is_agent,
    no_agent,
    pick_agent,
    say_shared,
    shared_names,
)
from tinyagentos.agents.requests import agent_subject
from tinyagentos.agents.roles import PREVIOUS, ROLE_KEY, SINCE_KEY, previous_name, replaced_at
from tinyagentos.agents.steps import DEPLOY, DEPLOYED
from tinyagentos.agents.watch import UNKNOWN
from tinyagentos.host.room import read_room
from tinyagentos.host.walls import Record
from tinyagentos.images.service import HELD_WITHIN
from tinyagentos.incus import Image, IncusError, Instance
from tinyagentos.model.agent import (
    Agent,
    AgentChange,
    AgentSpec,
    AgentState,
    Framework,
    ImportChoice,
    KeptState,
    Snapshot,
    SnapshotSchedule,
    parse_since,
)
from tinyagentos.model.errors import Conflict
from tinyagentos.model.image import image_alias
from tinyagentos.model.job import Job
from tinyagentos.model.recipe import Recipe

__all__ = ["Agents", "agent_subject"]

# Kinds of job after which an agent boots.
STARTING = frozenset(
    {"start", "restart", upgrade.UPGRADE, upgrade.UNDO, snapshots.RESTORE, bundle.EXPORT}
)


class Agents:
    """The agents of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._begun = host.now()
        self._images = upgrade.ImageVersions(host)

    async def start_deploy(self, spec: AgentSpec) -> Job:
        """A job that deploys the agent; see request_deploy() for what is refused."""
        return self._submit(await requests.request_deploy(spec, self._host))

    def memory_room(self) -> int:
        """Bytes of memory that one more agent may need now."""
        available = requests.memory_available(self._host)
        return max(0, available - requests.memory_promised(self._host))

    async def disk_room(self) -> int:
        """Bytes that are free where agents' roots and states are."""
        pool = await instances.pick_pool(self._host)
        return (await read_room(self._host.incus, pool.name)).free_bytes

    @property
    def walls(self) -> Record:
        """What became of the firewall rules of agents since the server started."""
        return self._host.walls.record

    async def list_agents(self) -> tuple[Agent, ...]:
        """Every agent as it is now, by name."""
        found = [i for i in await self._host.watch.instances() if AGENT_KEY in i.config]
        previous = {i.name: i for i in found if i.config.get(ROLE_KEY) == PREVIOUS}
        # Here once, and not by each agent.
        await self._images.look({i.config.get(FRAMEWORK_KEY, "") for i in found} - {""})
        agents = list(
            await asyncio.gather(
                *(
                    self._view(one, previous.get(previous_name(one.name)))
                    for one in filter(is_agent, found)
                )
            )
        )
        shared = shared_names(found)
        agents = [
            replace(one, reason=say_shared(one.name, shared[one.name]))
            if one.name in shared
            else one
            for one in agents
        ]
        seen = {agent.name for agent in agents}
        agents += [agent for agent in self._coming() if agent.name not in seen]
        return tuple(sorted(agents, key=lambda agent: agent.name))

    async def get_agent(self, name: str) -> Agent:
        """The agent as it is now; NotFound when there is none, Conflict when there are several."""
        known = {one.name: one for one in await self._host.watch.instances()}
        if instance := pick_agent(name, tuple(known.values()), self._host.incus.project):
            return await self._view(instance, known.get(previous_name(instance.name)))
        for agent in self._coming():
            if agent.name == name:
                return agent
        raise no_agent(name)

    async def start_power(self, name: str, action: requests.Power) -> Job:
        """A job that starts, stops or restarts the agent."""
        return self._submit(await requests.request_power(name, action, self._host))

    async def start_upgrade(self, name: str) -> Job:
        """A job that gives the agent a new root; Conflict when there is nothing newer."""
        return self._submit(await requests.request_upgrade(name, self._host))

    async def start_upgrade_all(self) -> Job:
        """A job that upgrades every agent that can be, one after the other; Conflict for none."""
        return self._submit(await requests.request_upgrade_all(self._host))

    async def start_undo(self, name: str) -> Job:
        """A job that returns the agent to root and state from before its last upgrade."""
        return self._submit(await requests.request_undo(name, self._host))

    async def start_network(self, name: str, written: str) -> Job:
        """A job that has the agent reach what the policy opens; it goes on running."""
        return self._submit(await requests.request_network(name, written, self._host))

    async def start_change(self, name: str, change: AgentChange) -> Job:
        """A job that changes the agent as it runs; see request_change() for what is refused."""
        return self._submit(await requests.request_change(name, change, self._host))

    async def stop_idle(self, last_used: Callable[[str], datetime | None]) -> None:
        """Have agents stopped that nobody used for as long as they are to wait.

        last_used: when an instance last asked a model, as far as is known. Who talks to an agent or
        looks at it uses it, and its start counts as well.
        """
        for one in certain_agents(await self._host.watch.instances()):
            minutes = one.config.get(IDLE_KEY, "")
            if not minutes.isdecimal() or not one.is_running:
                continue
            used = self._host.uses.last(one.name)
            known = (last_used(one.name), used, one.last_used_at, self._begun)
            latest = max(at for at in known if at is not None)
            if (self._host.now() - latest).total_seconds() >= 60 * int(minutes):
                with contextlib.suppress(Conflict):
                    self._submit(requests.request_stop(one))

    async def get_schedule(self, name: str) -> SnapshotSchedule:
        """How often the agent's state is kept by itself."""
        return settings.read_schedule(await requests.state_config(name, self._host))

    async def get_state_bytes(self, name: str) -> int | None:
        """How large the agent's state may grow; None when nothing limits it."""
        return _number((await requests.state_config(name, self._host)).get("size", "")) or None

    async def list_snapshots(self, name: str) -> tuple[Snapshot, ...]:
        """The snapshots of the agent's state, oldest first."""
        return await snapshots.list_snapshots((await self._find(name)).name, self._host)

    async def start_snapshot(self, name: str, snapshot: str = "") -> Job:
        """A job that keeps the agent's state; without a name it is called by the time."""
        return self._submit(await requests.request_snapshot(name, snapshot, self._host))

    async def start_restore(self, name: str, snapshot: str) -> Job:
        """A job that brings the agent's state back to the snapshot."""
        return self._submit(await requests.request_restore(name, snapshot, self._host))

    async def start_drop(self, name: str, snapshot: str) -> Job:
        """A job that removes the snapshot."""
        return self._submit(await requests.request_drop(name, snapshot, self._host))

    async def end_undo_windows(self) -> None:
        """Have the old roots removed that nobody returned to in time."""
        for one in await self._host.incus.instances.list():
            if one.config.get(ROLE_KEY) != PREVIOUS or AGENT_KEY not in one.config:
                continue
            if replaced_at(one.config) is None:
                # Somebody changed it by hand: its time begins now.
                since = self._host.now().isoformat(timespec="seconds")
                with contextlib.suppress(IncusError):
                    await instances.set_config(one.name, {SINCE_KEY: since}, self._host)
            elif requests.is_window_over(one, self._host):
                with contextlib.suppress(Conflict):
                    self._submit(requests.request_end_of_window(one))

    async def start_delete(self, name: str, *, keep_state: bool = False) -> Job:
        """A job that removes the agent and, unless it is to be kept, its state.

        A roll back of the agent that does not succeed is given up for it.
        """
        runner = self._host.runner
        request = await requests.request_delete(name, self._host, keep_state=keep_state)
        busy = runner.find_active(request.subject)
        if busy and runner.is_hindered(busy.id):
            await runner.give_up(busy.id)
        return self._submit(request)

    async def start_export_agent(self, name: str, file: Path) -> Job:
        """A job that writes the agent, with all it knows, into a new file of this machine."""
        return self._submit(await requests.request_export(name, file, self._host))

    async def start_import_agent(self, file: Path, choice: ImportChoice) -> tuple[Job, AgentSpec]:
        """A job that keeps the state in the file, and the agent to deploy with it after that.

        Raises InvalidInput when it is no exported agent, one of a framework that is not here, or
        asks for what nobody decided about, NoSpace when this host has less memory than it asks for.
        """
        carried = await asyncio.to_thread(bundle.read_carried, file)
        agent = bundle.decide(carried.agent, choice)
        job = self._submit(requests.request_import(replace(carried, agent=agent), self._host))
        return job, replace(agent, state_of=job.params["volume"])

    async def list_kept(self) -> tuple[KeptState, ...]:
        """The states that outlived their agents, the newest first."""
        return await kept.list_kept(self._host)

    async def drop_kept(self, name: str) -> None:
        """Remove a kept state for good; NotFound, or Conflict while a deploy takes it."""
        if any(job.params.get("kept") == name for job in self._host.runner.list_active()):
            raise Conflict("A deploy is taking that state.", hint="Wait for it, or cancel it.")
        await kept.drop_kept(name, self._host)

    async def open_log(
        self, name: str, *, follow: bool, lines: int, since: str = ""
    ) -> AsyncIterator[str]:
        """The agent's log, line by line; with follow it goes on until the caller leaves.

        since: such as `10m`, `2h`, `3d` or an ISO 8601 time. Raises NotFound, InvalidInput, or
        Conflict when the agent does not run.
        """
        after = parse_since(since, self._host.now()) if since else None
        instance = await self._find(name)
        if instance.status != "Running":
            raise Conflict(
                f"Agent {name!r} is not running, so its log cannot be read.",
                hint=f"Start it with `taos agent start {name}`.",
            )
        return instances.read_log(
            instance.name, UNIT, self._host, follow=follow, lines=lines, since=after
        )

    async def list_frameworks(self, *, within: float = HELD_WITHIN) -> tuple[Framework, ...]:
        """What can be deployed, and what that takes here of bytes and time, by each way.

        Of an Incus that does not answer within so many seconds, what it said last is told.
        """
        held = await self._host.images.list_held(within=within)
        speed = await expect.read_speed(self._host, held)
        return tuple(self._framework(one, held, speed) for one in self._host.recipes.values())

    def _framework(
        self, recipe: Recipe, held: Mapping[str, Image], speed: expect.HostSpeed
    ) -> Framework:
        host, name = self._host, recipe.name
        image = held.get(image_alias(name, host.arch))
        released = host.images.known_release(name).size_bytes
        return Framework(
            name=name,
            version=recipe.version,
            title=recipe.title,
            memory_bytes=recipe.agent.memory_need_bytes,
            image_size_bytes=image.size if image else released or None,
            image_budget_bytes=recipe.budget.packed_bytes or None,
            expected_seconds={
                "download": 0.0 if image else expect.download_seconds(name, host, speed),
                "image": expect.start_seconds(name, host, speed),
                "build": expect.build_seconds(name, host, speed),
            },
        )

    def _submit(self, request: requests.Request) -> Job:
        return self._host.runner.submit(request.kind, request.subject, request.params)

    async def _find(self, name: str) -> Instance:
        return await requests.get_instance(name, self._host)

    def _coming(self) -> list[Agent]:
        """Agents whose instance is not there yet, or is being exchanged at this moment."""
        return [
            Agent(
                name=job.params["agent"],
                framework=job.params["framework"],
                version=recipe.version if recipe else "",
                state=AgentState.deploying if job.kind == DEPLOY else AgentState.starting,
                instance=job.params["instance"],
                source=job.source,
                created_at=job.created_at,
            )
            for job in self._host.runner.list_active()
            if job.kind in (DEPLOY, upgrade.UPGRADE, upgrade.UNDO)
            for recipe in [self._host.recipes.get(job.params["framework"])]
        ]

    async def _view(self, instance: Instance, previous: Instance | None = None) -> Agent:
        state, reason = await self._state(instance)
        limit = instance.config.get("limits.memory", "")
        return Agent(
            name=instance.config[AGENT_KEY],
            framework=instance.config.get(FRAMEWORK_KEY, ""),
            version=instance.config.get(VERSION_KEY, ""),
            state=state,
            reason=reason,
            instance=instance.name,
            source=instance.config.get(SOURCE_KEY, ""),
            created_at=instance.created_at,
            memory_bytes=int(limit) if limit.isdigit() else None,
            newest=await self._newest(instance),
            title=instance.config.get(TITLE_KEY, ""),
            cpus=_number(instance.config.get("limits.cpu", "")),
            disk_bytes=_number(instance.devices.get("root", {}).get("size", "")) or None,
            autostart=instance.config.get(AUTOSTART) != "false",
            idle_stop_minutes=_number(instance.config.get(IDLE_KEY, "")),
            nesting=instance.config.get(NESTING) == "true",
            network=str(network.read_policy(instance.config)),
            undo_version=previous.config.get(VERSION_KEY, "") if previous else "",
        )

    async def _newest(self, instance: Instance) -> str:
        """A newer version that the agent can be upgraded to, or nothing."""
        framework = instance.config.get(FRAMEWORK_KEY, "")
        versions = await self._images.look([framework])
        target = upgrade.find_newest_for(instance, versions[framework], self._host)
        return target.version if target else ""

    async def _state(self, instance: Instance) -> tuple[AgentState, str]:
        """The agent's state: the job at work on it, Incus's status, its own answer."""
        active = self._host.runner.find_active(agent_subject(instance.config[AGENT_KEY]))
        if active and active.kind == DEPLOY:
            return AgentState.deploying, ""
        if instance.config.get(STAGE_KEY) != DEPLOYED:
            return AgentState.failed, "its deploy did not end and no job is at work on it"
        if is_stateless(instance) and not active:
            return AgentState.failed, "what it knows is not attached to its instance"
        if instance.status == "Error":
            return AgentState.failed, "Incus reports an error for its instance"
        if not instance.is_running:
            return (
                AgentState.starting if active and active.kind in STARTING else AgentState.stopped
            ), ""
        if why := network.why_unplugged(instance, self._host.walls.record.unplugged):
            return AgentState.unhealthy, why
        answer = await self._host.watch.answer(instance)
        if answer.is_ready:
            return AgentState.ready, ""
        if answer is UNKNOWN or (active and active.kind in STARTING):
            return AgentState.starting, ""
        return AgentState.unhealthy, answer.said


def _number(text: str) -> int:
    """The number, 0 for anything else (Incus also takes sets and units)."""
    return int(text) if text.isdecimal() else 0
