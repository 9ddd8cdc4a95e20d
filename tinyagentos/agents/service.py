"""What the faces ask of agents: check a request, then hand back a job; show what there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Literal

from tinyagentos.agents import instances
from tinyagentos.agents.deploy import DEPLOY, DEPLOYED
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import (
    AGENT_KEY,
    FRAMEWORK_KEY,
    SOURCE_KEY,
    STAGE_KEY,
    UNIT,
    VERSION_KEY,
    make_order,
)
from tinyagentos.agents.plan import check_disk, check_memory
from tinyagentos.agents.readiness import ask, open_agent
from tinyagentos.images.supply import is_image_present
from tinyagentos.incus import Instance
from tinyagentos.model.agent import MIB, Agent, AgentSpec, AgentState, Framework, check_agent_name
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound
from tinyagentos.model.job import Job
from tinyagentos.model.recipe import Recipe

LEAST_MEMORY_MB = 64
MOST_MEMORY_MB = 1024 * 1024
LEAST_DISK_MB = 256
MOST_CPUS = 1024
HEALTH_WITHIN = 1.0


def agent_subject(name: str) -> str:
    """What a job on an agent holds: one at a time."""
    return f"agent:{name}"


class Agents:
    """The agents of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def start_deploy(self, spec: AgentSpec, *, idempotency_key: str = "") -> Job:
        """Check the request and accept it as a job.

        Raises InvalidInput, Conflict (name taken), NoSpace (memory or disk, with numbers), and
        what the Incus client raises when Incus does not answer.
        """
        if idempotency_key and (job := self._host.runner.find_by_key(idempotency_key)):
            return job
        recipe = self._check(spec)
        await self._check_name_free(spec.name)
        await self._check_room(recipe)
        order = make_order(spec, recipe, self._host.new_suffix())
        return self._host.runner.submit(
            DEPLOY, agent_subject(spec.name), order.to_params(), idempotency_key=idempotency_key
        )

    def _check(self, spec: AgentSpec) -> Recipe:
        check_agent_name(spec.name)
        recipe = self._host.recipes.get(spec.framework)
        if recipe is None:
            raise InvalidInput(
                f"There is no framework {spec.framework[:60]!r}.",
                hint=f"There are: {', '.join(self._host.recipes)}.",
            )
        _check_range("memory", spec.memory_bytes, LEAST_MEMORY_MB * MIB, MOST_MEMORY_MB * MIB)
        _check_range("disk", spec.disk_bytes, LEAST_DISK_MB * MIB, 2**62)
        _check_range("cpu", spec.cpus, 1, MOST_CPUS)
        return recipe

    async def _check_name_free(self, name: str) -> None:
        taken = Conflict(
            f"There is an agent {name!r} already.",
            hint="Choose another name, or delete that one first.",
        )
        if job := self._host.runner.find_active(agent_subject(name)):
            raise Conflict(
                f"A {job.kind} job is at work on agent {name!r} already.",
                hint=f"Watch it with `taos job watch {job.id}`, or cancel it first.",
            )
        if await instances.find_agent_instance(name, self._host):
            raise taken

    async def _check_room(self, recipe: Recipe) -> None:
        host = self._host
        need = recipe.agent.memory_need_bytes
        promised = need * sum(job.kind == DEPLOY for job in host.runner.list_active())
        reserve = host.settings.memory_reserve_mb * MIB
        check_memory(
            need, available_bytes=host.memory_available() - reserve, promised_bytes=promised
        )
        pool = await instances.pick_pool(host)
        present = await is_image_present(host.incus, recipe.name, host.arch)
        disk = recipe.agent.image_disk_bytes if present else recipe.agent.build_disk_bytes
        room = await host.incus.storage.get_resources(pool.name)
        check_disk(disk, free_bytes=room.free_bytes, pool=pool.name)

    async def list_agents(self) -> tuple[Agent, ...]:
        """Every agent as it is now, by name."""
        found = [i for i in await self._host.incus.instances.list() if AGENT_KEY in i.config]
        agents = list(await asyncio.gather(*(self._view(instance) for instance in found)))
        seen = {agent.name for agent in agents}
        agents += [agent for agent in self._coming() if agent.name not in seen]
        return tuple(sorted(agents, key=lambda agent: agent.name))

    async def get_agent(self, name: str) -> Agent:
        """The agent as it is now; NotFound when there is none."""
        if instance := await instances.find_agent_instance(name, self._host):
            return await self._view(instance)
        for agent in self._coming():
            if agent.name == name:
                return agent
        raise _no_agent(name)

    async def start_power(self, name: str, action: Literal["start", "stop", "restart"]) -> Job:
        """A job that starts, stops or restarts the agent."""
        return await self._submit(action, name)

    async def start_delete(self, name: str) -> Job:
        """A job that removes the agent and its state."""
        return await self._submit("delete", name)

    async def open_log(self, name: str, *, follow: bool, lines: int) -> AsyncIterator[str]:
        """The agent's log, line by line; with follow it goes on until the caller leaves.

        Raises NotFound, or Conflict when the agent does not run.
        """
        instance = await self._find(name)
        if instance.status != "Running":
            raise Conflict(
                f"Agent {name!r} is not running, so its log cannot be read.",
                hint=f"Start it with `taos agent start {name}`.",
            )
        return instances.read_log(instance.name, UNIT, self._host, follow=follow, lines=lines)

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
            raise _no_agent(name)
        return instance

    def _coming(self) -> list[Agent]:
        """Agents whose deploy has not made an instance yet."""
        return [
            Agent(
                name=job.params["agent"],
                framework=job.params["framework"],
                version=self._host.recipes[job.params["framework"]].version,
                state=AgentState.deploying,
                instance=job.params["instance"],
                source=job.source,
                created_at=job.created_at,
            )
            for job in self._host.runner.list_active()
            if job.kind == DEPLOY
        ]

    async def _view(self, instance: Instance) -> Agent:
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
        if instance.status != "Running":
            return AgentState.stopped, ""
        recipe = self._host.recipes.get(instance.config.get(FRAMEWORK_KEY, ""))
        if recipe is None:
            return AgentState.unhealthy, "this taOS does not know its framework"
        async with open_agent(self._host.socket(instance.name)) as agent:
            answer = await ask(agent, recipe.agent.ready_path, within=HEALTH_WITHIN)
        if answer.is_ready:
            return AgentState.ready, ""
        if active and active.kind in ("start", "restart"):
            return AgentState.starting, ""
        return AgentState.unhealthy, answer.said


def _no_agent(name: str) -> NotFound:
    return NotFound(f"There is no agent {name[:60]!r}.", hint="`taos agent list` shows the agents.")


def _check_range(what: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        unit = f"{least // MIB} MiB" if least >= MIB else str(least)
        raise InvalidInput(
            f"{what} cannot be {value}.", hint=f"Give at least {unit} and at most {most}."
        )
