"""What the faces ask of agents: check a request, then hand back a job; show what there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from tinyagentos.agents import bundle, instances, kept, network, settings, snapshots, upgrade
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
    make_order,
)
from tinyagentos.agents.plan import check_disk, check_memory
from tinyagentos.agents.roles import PREVIOUS, ROLE_KEY, SINCE_KEY, SNAPSHOT_KEY, previous_name
from tinyagentos.agents.steps import DEPLOY, DEPLOYED
from tinyagentos.agents.watch import UNKNOWN
from tinyagentos.images.supply import is_image_present
from tinyagentos.incus import Instance
from tinyagentos.model.agent import (
    MIB,
    Agent,
    AgentChange,
    AgentSpec,
    AgentState,
    Framework,
    KeptState,
    Snapshot,
    SnapshotSchedule,
    Source,
    check_agent_name,
    parse_since,
)
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound
from tinyagentos.model.job import Job
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.model.provider import ModelChoice, check_choice, parse_model
from tinyagentos.model.recipe import Recipe

LEAST_MEMORY_MB = 64
MOST_MEMORY_MB = 1024 * 1024
LEAST_DISK_MB = 256
MOST_CPUS = 1024
# Kinds of job after which an agent boots.
STARTING = frozenset(
    {"start", "restart", upgrade.UPGRADE, upgrade.UNDO, snapshots.RESTORE, bundle.EXPORT}
)


def agent_subject(name: str) -> str:
    """What a job on an agent holds: one at a time."""
    return f"agent:{name}"


class Agents:
    """The agents of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._begun = host.now()

    async def start_deploy(self, spec: AgentSpec, *, idempotency_key: str = "") -> Job:
        """Check the request and accept it as a job.

        Raises InvalidInput, Conflict (name taken), NoSpace (memory or disk, with numbers), and
        what the Incus client raises when Incus does not answer.
        """
        if idempotency_key and (job := self._host.runner.find_by_key(idempotency_key)):
            return job
        recipe = self._check(spec)
        await self._check_name_free(spec.name)
        await self._check_room(recipe, spec.source)
        state, least = await self._find_state(spec) if spec.state_of else ("", 0)
        order = make_order(spec, recipe, self._host.new_suffix(), state, least)
        return self._host.runner.submit(
            DEPLOY, agent_subject(spec.name), order.to_params(), idempotency_key=idempotency_key
        )

    async def _find_state(self, spec: AgentSpec) -> tuple[str, int]:
        """The kept state that the new agent begins with, and the least limit that leaves it room.

        Conflict when another one took it, or the limit that is asked for would not do.
        """
        name = await kept.find_kept(spec.state_of, spec.framework, self._host)
        if any(job.params.get("kept") == name for job in self._host.runner.list_active()):
            raise Conflict(
                f"Another deploy takes the state of {spec.state_of!r} already.",
                hint="`taos job list` shows it.",
            )
        use = await settings.read_state_use(name, self._host)
        if spec.state_bytes:
            settings.check_state(spec.state_bytes, use)
        return name, use.least_bytes

    def _check(self, spec: AgentSpec) -> Recipe:
        check_agent_name(spec.name)
        NetworkPolicy.parse(spec.network)
        named = (spec.model, *spec.fallbacks)
        models = tuple(parse_model(one) for one in named if one)
        check_choice(ModelChoice(models, spec.monthly_tokens))
        settings.check_title(spec.title)
        settings.check_idle(spec.idle_stop_minutes)
        recipe = self._host.recipes.get(spec.framework)
        if recipe is None:
            raise InvalidInput(
                f"There is no framework {spec.framework[:60]!r}.",
                hint=f"There are: {', '.join(self._host.recipes)}.",
            )
        _check_range("memory", spec.memory_bytes, LEAST_MEMORY_MB * MIB, MOST_MEMORY_MB * MIB)
        # What an image unpacks to counts, and a root that is full cannot even be changed.
        _check_range("disk", spec.disk_bytes, recipe.agent.image_disk_bytes, 2**62)
        _check_range("state disk", spec.state_bytes, LEAST_DISK_MB * MIB, 2**62)
        _check_range("cpu", spec.cpus, 1, MOST_CPUS)
        return recipe

    async def _check_name_free(self, name: str) -> None:
        taken = Conflict(
            f"There is an agent {name!r} already.",
            hint="Choose another name, or delete that one first.",
        )
        self._check_free(name)
        if await instances.find_agent_instance(name, self._host):
            raise taken

    def _check_free(self, name: str) -> None:
        if job := self._host.runner.find_active(agent_subject(name)):
            raise Conflict(
                f"A {job.kind} job is at work on agent {name!r} already.",
                hint=f"Watch it with `taos job watch {job.id}`, or cancel it first.",
            )

    async def _check_room(self, recipe: Recipe, source: Source) -> None:
        host = self._host
        need = recipe.agent.memory_need_bytes
        promised = need * sum(job.kind == DEPLOY for job in host.runner.list_active())
        reserve = host.settings.memory_reserve_mb * MIB
        check_memory(
            need, available_bytes=host.memory_available() - reserve, promised_bytes=promised
        )
        pool = await instances.pick_pool(host)
        present = await is_image_present(host.incus, recipe.name, host.arch)
        if not present and source is Source.image:
            host.images.start_download(recipe.name)
        disk = recipe.agent.image_disk_bytes if present else recipe.agent.build_disk_bytes
        room = await host.incus.storage.get_resources(pool.name)
        check_disk(disk, free_bytes=room.free_bytes, pool=pool.name)

    async def list_agents(self) -> tuple[Agent, ...]:
        """Every agent as it is now, by name."""
        found = [i for i in await self._host.watch.instances() if AGENT_KEY in i.config]
        previous = {i.name: i for i in found if i.config.get(ROLE_KEY) == PREVIOUS}
        agents = list(
            await asyncio.gather(
                *(
                    self._view(one, previous.get(previous_name(one.name)))
                    for one in found
                    if not one.config.get(ROLE_KEY)
                )
            )
        )
        seen = {agent.name for agent in agents}
        agents += [agent for agent in self._coming() if agent.name not in seen]
        return tuple(sorted(agents, key=lambda agent: agent.name))

    async def get_agent(self, name: str) -> Agent:
        """The agent as it is now; NotFound when there is none."""
        known = {one.name: one for one in await self._host.watch.instances()}
        for instance in known.values():
            if instance.config.get(AGENT_KEY) == name and not instance.config.get(ROLE_KEY):
                return await self._view(instance, known.get(previous_name(instance.name)))
        for agent in self._coming():
            if agent.name == name:
                return agent
        raise no_agent(name)

    async def start_power(self, name: str, action: Literal["start", "stop", "restart"]) -> Job:
        """A job that starts, stops or restarts the agent."""
        return await self._submit(action, name)

    async def start_upgrade(self, name: str) -> Job:
        """A job that gives the agent a new root; Conflict when there is nothing newer."""
        instance = await self._find(name)
        self._check_free(name)
        await upgrade.find_target(instance, self._host)
        return self._submit_on(instance, upgrade.UPGRADE, framework=instance.config[FRAMEWORK_KEY])

    async def start_undo(self, name: str) -> Job:
        """A job that returns the agent to root and state from before its last upgrade."""
        instance = await self._find(name)
        previous = await self._host.incus.instances.find(previous_name(instance.name))
        if previous is None:
            raise Conflict(
                f"There is no upgrade of {name!r} to undo.",
                hint=f"An old root is kept for {self._host.settings.undo_hours} hours.",
            )
        return self._submit_on(
            instance, upgrade.UNDO, snapshot=previous.config.get(SNAPSHOT_KEY, "")
        )

    async def start_network(self, name: str, written: str) -> Job:
        """A job that has the agent reach what the policy opens; it goes on running."""
        policy = NetworkPolicy.parse(written)
        instance = await self._find(name)
        return self._submit_on(
            instance,
            network.NETWORK,
            policy=str(policy),
            previous=str(network.read_policy(instance.config)),
        )

    async def start_change(self, name: str, change: AgentChange) -> Job:
        """A job that changes the agent as it runs.

        Raises InvalidInput, NotFound, or Conflict when the agent takes more than the new limit.
        """
        _check_range("memory", change.memory_bytes, LEAST_MEMORY_MB * MIB, MOST_MEMORY_MB * MIB)
        _check_range("disk", change.disk_bytes, LEAST_DISK_MB * MIB, 2**62)
        _check_range("state disk", change.state_bytes, LEAST_DISK_MB * MIB, 2**62)
        _check_range("cpu", change.cpus, 0, MOST_CPUS)
        if change == AgentChange():
            raise InvalidInput("Nothing is to be changed.", hint="Name what to change.")
        instance = await self._find(name)
        if instance.is_running and not (change.disk_bytes is change.state_bytes is None):
            await instances.count_disk(instance.name, self._host)
        if not (change.memory_bytes is change.disk_bytes is None):
            state = await self._host.incus.instances.state(instance.name)
            recipe = self._host.recipes[instance.config[FRAMEWORK_KEY]]
            settings.check_use(change, state, recipe.agent.image_disk_bytes)
        if change.state_bytes is not None:
            use = await settings.read_state_use(f"{instance.name}-state", self._host)
            settings.check_state(change.state_bytes, use)
        pool = await instances.pick_pool(self._host)
        keys = settings.plan_change(change, has_quota=instances.has_quota(pool))
        before = await settings.read_keys(instance, keys, self._host)
        return self._submit_on(
            instance, settings.CHANGE, keys=keys.to_text(), before=before.to_text()
        )

    async def stop_idle(self, last_used: Callable[[str], datetime | None]) -> None:
        """Have agents stopped that nobody used for as long as they are to wait.

        last_used: when an instance last asked a model, as far as is known. Who talks to an agent or
        looks at it uses it, and its start counts as well.
        """
        for one in await self._host.watch.instances():
            minutes = one.config.get(IDLE_KEY, "")
            if not minutes.isdecimal() or not one.is_running or one.config.get(ROLE_KEY):
                continue
            used = self._host.uses.last(one.name)
            known = (last_used(one.name), used, one.last_used_at, self._begun)
            latest = max(at for at in known if at is not None)
            if self._host.now() - latest >= timedelta(minutes=int(minutes)):
                with contextlib.suppress(Conflict):
                    self._submit_on(one, "stop")

    async def get_schedule(self, name: str) -> SnapshotSchedule:
        """How often the agent's state is kept by itself."""
        return settings.read_schedule(await self._state_config(name))

    async def get_state_bytes(self, name: str) -> int | None:
        """How large the agent's state may grow; None when nothing limits it."""
        return _number((await self._state_config(name)).get("size", "")) or None

    async def _state_config(self, name: str) -> Mapping[str, str]:
        pool = await instances.pick_pool(self._host)
        volume = f"{(await self._find(name)).name}-state"
        return (await self._host.incus.storage.get_volume(pool.name, volume)).config

    async def list_snapshots(self, name: str) -> tuple[Snapshot, ...]:
        """The snapshots of the agent's state, oldest first."""
        return await snapshots.list_snapshots((await self._find(name)).name, self._host)

    async def start_snapshot(self, name: str, snapshot: str = "") -> Job:
        """A job that keeps the agent's state; without a name it is called by the time."""
        instance = await self._find(name)
        called = snapshots.check_snapshot_name(
            snapshot or self._host.now().strftime("%Y%m%d-%H%M%S")
        )
        if called in {
            one.name for one in await snapshots.list_snapshots(instance.name, self._host)
        }:
            raise Conflict(
                f"There is a snapshot {called!r} of {name!r} already.", hint="Choose another name."
            )
        return self._submit_on(instance, snapshots.SNAPSHOT, snapshot=called)

    async def start_restore(self, name: str, snapshot: str) -> Job:
        """A job that brings the agent's state back to the snapshot."""
        instance = await self._find_with(name, snapshot)
        return self._submit_on(instance, snapshots.RESTORE, snapshot=snapshot)

    async def start_drop(self, name: str, snapshot: str) -> Job:
        """A job that removes the snapshot."""
        instance = await self._find_with(name, snapshot)
        return self._submit_on(instance, snapshots.DROP, snapshot=snapshot)

    async def end_undo_windows(self) -> None:
        """Have the old roots removed that nobody returned to in time."""
        latest = self._host.now() - timedelta(hours=self._host.settings.undo_hours)
        for one in await self._host.incus.instances.list():
            since = one.config.get(SINCE_KEY, "")
            if one.config.get(ROLE_KEY) != PREVIOUS or datetime.fromisoformat(since) > latest:
                continue
            name = one.name.removesuffix(previous_name(""))
            with contextlib.suppress(Conflict):
                self._host.runner.submit(
                    upgrade.FORGET, agent_subject(one.config[AGENT_KEY]), {"instance": name}
                )

    async def _find_with(self, name: str, snapshot: str) -> Instance:
        """The agent's instance, if its state has the snapshot."""
        instance = await self._find(name)
        if snapshot not in {one.name for one in await self.list_snapshots(name)}:
            raise NotFound(
                f"Agent {name!r} has no snapshot {snapshot[:80]!r}.",
                hint=f"`taos agent snapshots {name}` lists them.",
            )
        return instance

    def _submit_on(self, instance: Instance, kind: str, **params: str) -> Job:
        """A job on the agent of the instance, which knows how it was before."""
        agent = instance.config[AGENT_KEY]
        held = {"instance": instance.name, "agent": agent, "was_running": str(instance.is_running)}
        return self._host.runner.submit(kind, agent_subject(agent), held | params)

    async def start_delete(self, name: str, *, keep_state: bool = False) -> Job:
        """A job that removes the agent and, unless it is to be kept, its state."""
        instance = await self._find(name)
        return self._submit_on(
            instance,
            "delete",
            keep_state=str(keep_state),
            framework=instance.config.get(FRAMEWORK_KEY, ""),
        )

    async def start_export_agent(self, name: str, file: Path) -> Job:
        """A job that writes the agent, with all it knows, into a new file of this machine.

        Raises NotFound, InvalidInput, Conflict when the file is there already.
        """
        instance = await self._find(name)
        if not file.is_absolute() or not file.parent.is_dir():
            raise InvalidInput(
                f"{file} cannot be written.", hint="Give the whole path of a file in a folder."
            )
        if file.exists():
            raise Conflict(f"{file} is there already.", hint="Give another name.")
        told = json.dumps(bundle.describe(instance, await self._state_config(name)))
        return self._submit_on(instance, bundle.EXPORT, to=str(file), agent_file=told)

    async def start_import_agent(self, file: Path) -> tuple[Job, AgentSpec]:
        """A job that keeps the state in the file, and the agent to deploy with it after that.

        Raises InvalidInput when it is no exported agent, or one of a framework that is not here.
        """
        carried = await asyncio.to_thread(bundle.read_carried, file)
        agent = carried.agent
        if agent.framework not in self._host.recipes:
            raise InvalidInput(
                f"{file.name} is an agent of {agent.framework[:60]!r}, which this taOS has not.",
                hint=f"There are: {', '.join(self._host.recipes)}.",
            )
        self._check(agent)
        volume = f"{agent.name}-{self._host.new_suffix()}-state"
        params = {"from": str(file), "volume": volume}
        job = self._host.runner.submit(bundle.IMPORT, f"state:{volume}", params)
        return job, replace(agent, state_of=volume)

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

    def list_frameworks(self) -> tuple[Framework, ...]:
        """What can be deployed, and how long it takes here by source."""
        return tuple(self._framework(recipe) for recipe in self._host.recipes.values())

    def _framework(self, recipe: Recipe) -> Framework:
        subject = f"{recipe.name}/{self._host.arch}"
        expected: Mapping[str, float | None] = {
            source: self._host.timings.typical_seconds(f"deploy.{source}", subject)
            for source in ("image", "build")
        }
        return Framework(
            name=recipe.name,
            version=recipe.version,
            title=recipe.title,
            memory_bytes=recipe.agent.memory_need_bytes,
            image_size_bytes=None,
            expected_seconds=expected,
        )

    async def _submit(self, kind: str, name: str) -> Job:
        instance = await self._find(name)
        return self._host.runner.submit(kind, agent_subject(name), {"instance": instance.name})

    async def _find(self, name: str) -> Instance:
        instance = await instances.find_agent_instance(name, self._host)
        if instance is None:
            raise no_agent(name)
        return instance

    def _coming(self) -> list[Agent]:
        """Agents whose instance is not there yet, or is being exchanged at this moment."""
        return [
            Agent(
                name=job.params["agent"],
                framework=job.params["framework"],
                version=self._host.recipes[job.params["framework"]].version,
                state=AgentState.deploying if job.kind == DEPLOY else AgentState.starting,
                instance=job.params["instance"],
                source=job.source,
                created_at=job.created_at,
            )
            for job in self._host.runner.list_active()
            if job.kind in (DEPLOY, upgrade.UPGRADE)
        ]

    async def _view(self, instance: Instance, previous: Instance | None = None) -> Agent:
        state, reason = await self._state(instance)
        version = instance.config.get(VERSION_KEY, "")
        recipe = self._host.recipes.get(instance.config.get(FRAMEWORK_KEY, ""))
        limit = instance.config.get("limits.memory", "")
        return Agent(
            name=instance.config[AGENT_KEY],
            framework=instance.config.get(FRAMEWORK_KEY, ""),
            version=version,
            state=state,
            reason=reason,
            instance=instance.name,
            source=instance.config.get(SOURCE_KEY, ""),
            created_at=instance.created_at,
            memory_bytes=int(limit) if limit.isdigit() else None,
            newest=recipe.version if recipe and recipe.version != version else "",
            title=instance.config.get(TITLE_KEY, ""),
            cpus=_number(instance.config.get("limits.cpu", "")),
            disk_bytes=_number(instance.devices.get("root", {}).get("size", "")) or None,
            autostart=instance.config.get(AUTOSTART) != "false",
            idle_stop_minutes=_number(instance.config.get(IDLE_KEY, "")),
            nesting=instance.config.get(NESTING) == "true",
            network=str(network.read_policy(instance.config)),
            undo_version=previous.config.get(VERSION_KEY, "") if previous else "",
        )

    async def _state(self, instance: Instance) -> tuple[AgentState, str]:
        """The agent's state: the job at work on it, Incus's status, its own answer."""
        active = self._host.runner.find_active(agent_subject(instance.config[AGENT_KEY]))
        if active and active.kind == DEPLOY:
            return AgentState.deploying, ""
        if instance.config.get(STAGE_KEY) != DEPLOYED:
            return AgentState.failed, "its deploy did not end and no job is at work on it"
        if instance.status == "Error":
            return AgentState.failed, "Incus reports an error for its instance"
        if not instance.is_running:
            return (
                AgentState.starting if active and active.kind in STARTING else AgentState.stopped
            ), ""
        answer = await self._host.watch.answer(instance)
        if answer.is_ready:
            return AgentState.ready, ""
        if answer is UNKNOWN or (active and active.kind in STARTING):
            return AgentState.starting, ""
        return AgentState.unhealthy, answer.said


def no_agent(name: str) -> NotFound:
    """There is no agent of that name."""
    return NotFound(f"There is no agent {name[:60]!r}.", hint="`taos agent list` shows the agents.")


def _number(text: str) -> int:
    """The number, 0 for anything else (Incus also takes sets and units)."""
    return int(text) if text.isdecimal() else 0


def _check_range(what: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        unit = f"{least // MIB} MiB" if least >= MIB else str(least)
        raise InvalidInput(
            f"{what} cannot be {value}.", hint=f"Give at least {unit} and at most {most}."
        )
