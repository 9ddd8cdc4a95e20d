"""Tells open pages what changed. It asks the server once for all of them, and not at all for none.

Pages get jobs' changes as they happen, at most twice a second; agents are looked at again when a
job began or ended, when an instance or an agent's health changed, and now and then while somebody
looks. What agents take is noted each minute, also while nobody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from tinyagentos.agents.order import STAGE_KEY
from tinyagentos.agents.steps import DEPLOYED
from tinyagentos.incus import IncusError
from tinyagentos.model.agent import Agent
from tinyagentos.model.errors import TaosError
from tinyagentos.model.job import Job, Problem
from tinyagentos.web.history import EVERY, History, Meter, Usage, pause_after
from tinyagentos.web.services import Services

_log = logging.getLogger(__name__)
PAUSE = 0.5
LOOK_EVERY = 10.0
FIRST_WITHIN = 2.0


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
        self._now_and_then, self._by_minute = Meter(), Meter()
        self.history = History()
        self.sight = Sight()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_jobs())
            group.create_task(self._watch_agents())
            group.create_task(self._keep_looking())
            group.create_task(self._keep_history())

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
            if self.sight != before:
                await self._tell(Change(agents=True))
            await asyncio.sleep(PAUSE)

    async def _keep_history(self) -> None:
        """Note what agents take, whether a page is open or not."""
        pause = EVERY
        while True:
            await asyncio.sleep(pause)
            begun = time.monotonic()
            try:
                there = await self._services.host.watch.instances()
                if any(one.is_running for one in there):
                    there = await self._services.incus.instances.list(with_state=True)
            except (TaosError, IncusError) as error:
                _log.debug("what agents take is not known: %s", error)
                continue
            now = time.monotonic()
            usage = self._by_minute.measure(there, now)
            self.history.note({one.name for one in there}, usage, now)
            pause = pause_after(time.monotonic() - begun)

    async def _look(self) -> Sight:
        try:
            agents = await self._services.agents.list_agents()
            instances = await self._services.incus.instances.list(with_state=True)
        except (TaosError, IncusError) as error:
            return replace(self.sight, problem=self._services.explain(error))
        found = {one.name: one for one in instances}
        usage = self._now_and_then.measure(instances, time.monotonic())
        roots = {agent.name: found[agent.instance] for agent in agents if agent.instance in found}
        return Sight(
            agents,
            {name: usage[root.name] for name, root in roots.items() if root.name in usage},
            running=frozenset(name for name, root in roots.items() if root.is_running),
            unfinished=frozenset(
                name for name, root in roots.items() if root.config.get(STAGE_KEY) != DEPLOYED
            ),
        )

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
