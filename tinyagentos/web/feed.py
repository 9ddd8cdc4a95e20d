"""Tells open pages what changed. It asks the server once for all of them, and not at all for none.

Pages get jobs' changes as they happen, at most twice a second; agents are looked at again when a
job began or ended, when an instance or an agent's health changed, and now and then while somebody
looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from tinyagentos.agents.order import STAGE_KEY
from tinyagentos.agents.steps import DEPLOYED
from tinyagentos.incus import IncusError, Instance
from tinyagentos.model.agent import Agent
from tinyagentos.model.errors import TaosError
from tinyagentos.model.job import Job, Problem
from tinyagentos.web.services import Services

_log = logging.getLogger(__name__)
PAUSE = 0.5
LOOK_EVERY = 10.0
FIRST_WITHIN = 2.0
HISTORY = 90


@dataclass(frozen=True)
class Usage:
    """What an agent takes now. cpu: share of one processor, None until it was seen twice."""

    memory_bytes: int
    cpu: float | None
    disk_bytes: int | None


@dataclass(frozen=True)
class Sight:
    """The agents as they were seen last; problem: why they could not be.

    running: agents whose instance runs, whatever they say; unfinished: whose deploy never ended.
    """

    agents: tuple[Agent, ...] = ()
    usage: Mapping[str, Usage] = field(default_factory=dict)
    running: frozenset[str] = frozenset()
    unfinished: frozenset[str] = frozenset()
    problem: Problem | None = None


@dataclass(frozen=True)
class Change:
    """Jobs that changed (their ids), and whether agents may have."""

    jobs: frozenset[str] = frozenset()
    agents: bool = False


Show = Callable[[Change], Awaitable[None] | None]


class Feed:
    """One watcher of the server for all open pages."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._shows: dict[Show, None] = {}
        self._look_now = asyncio.Event()
        self._looked = asyncio.Event()
        self._askers = 0
        self._states: dict[str, bool] = {}
        self._spent: dict[str, tuple[float, int]] = {}
        self._history: dict[str, deque[Usage]] = {}
        self._noted = 0.0
        self.sight = Sight()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_jobs())
            group.create_task(self._watch_agents())
            group.create_task(self._keep_looking())

    def listen(self, show: Show) -> Callable[[], None]:
        """Have show called after each change; what is returned ends that."""
        self._shows[show] = None
        self._look_now.set()

        def end() -> None:
            self._shows.pop(show, None)

        return end

    async def fresh_sight(self) -> Sight:
        """The agents as they are now; what is known when that takes too long."""
        self._looked.clear()
        self._look_now.set()
        self._askers += 1
        try:
            async with asyncio.timeout(FIRST_WITHIN):
                await self._looked.wait()
        except TimeoutError:
            _log.debug("agents not seen in time")
        finally:
            self._askers -= 1
        return self.sight

    def history(self, name: str) -> tuple[Usage, ...]:
        """What the agent took at each look, the latest last."""
        return tuple(self._history.get(name, ()))

    def look_again(self) -> None:
        """Something happened that may have changed agents."""
        self._look_now.set()

    async def _watch_jobs(self) -> None:
        async for ids in self._services.jobs.watch_changes():
            if self._shows:
                for job_id in ids:
                    self._note_state(job_id)
                await self._tell(Change(jobs=ids))
            await asyncio.sleep(PAUSE)

    def _note_state(self, job_id: str) -> None:
        """Look at the agents when the job is new or ended."""
        try:
            active = self._services.jobs.get_job(job_id).is_active
        except TaosError:
            active = False
        if self._states.get(job_id) is not active:
            self._look_now.set()
        if active:
            self._states[job_id] = True
        else:
            self._states.pop(job_id, None)
            self._look_now.set()

    async def _watch_agents(self) -> None:
        async for _ in self._services.host.watch.changes():
            self._look_now.set()

    async def _keep_looking(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._look_now.wait()
            self._look_now.clear()
            if not self._shows and not self._askers:
                continue
            before, self.sight = self.sight, await self._look()
            self._looked.set()
            self._note_usage()
            if self.sight != before:
                await self._tell(Change(agents=True))
            await asyncio.sleep(PAUSE)

    def _note_usage(self) -> None:
        """Keep what agents take, at even intervals; of those that are gone nothing."""
        now = asyncio.get_running_loop().time()
        usage = self.sight.usage
        for name in self._history.keys() - usage.keys():
            del self._history[name]
        if now - self._noted < LOOK_EVERY * 0.9:
            return
        self._noted = now
        for name, one in usage.items():
            self._history.setdefault(name, deque(maxlen=HISTORY)).append(one)

    async def _look(self) -> Sight:
        try:
            agents = await self._services.agents.list_agents()
            instances = await self._services.incus.instances.list(with_state=True)
        except (TaosError, IncusError) as error:
            return replace(self.sight, problem=self._services.explain(error))
        found = {one.name: one for one in instances}
        roots = {agent.name: found[agent.instance] for agent in agents if agent.instance in found}
        return Sight(
            agents,
            self._usage(agents, found),
            running=frozenset(name for name, root in roots.items() if root.is_running),
            unfinished=frozenset(
                name for name, root in roots.items() if root.config.get(STAGE_KEY) != DEPLOYED
            ),
        )

    def _usage(self, agents: tuple[Agent, ...], found: Mapping[str, Instance]) -> dict[str, Usage]:
        """What each running agent takes, by name."""
        now = asyncio.get_running_loop().time()
        usage = {}
        for agent in agents:
            instance = found.get(agent.instance)
            if instance is None or instance.state is None or not instance.is_running:
                continue
            state = instance.state
            at, spent = self._spent.get(agent.instance, (now, state.cpu_ns))
            cpu = (state.cpu_ns - spent) / 1e9 / (now - at) if now - at > 1 else None
            if cpu is None and agent.name in self.sight.usage:
                cpu = self.sight.usage[agent.name].cpu
            else:
                self._spent[agent.instance] = (now, state.cpu_ns)
            disk = sum(state.disk_bytes.values()) or None
            usage[agent.name] = Usage(
                state.memory_bytes, None if cpu is None else max(0.0, round(cpu, 2)), disk
            )
        return usage

    async def _tell(self, change: Change) -> None:
        for show in tuple(self._shows):
            try:
                waiting = show(change)
                if waiting is not None:
                    await waiting
            except Exception:
                _log.exception("a page could not be brought up to date")


def find_job(services: Services, subject: str) -> Job | None:
    """The job at work on the subject, else the newest that was."""
    if active := services.jobs.find_active(subject):
        return active
    return next((job for job in services.jobs.list_jobs() if job.subject == subject), None)
