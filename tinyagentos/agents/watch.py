"""What every agent does, known before anybody asks: instances by Incus's events, health by a loop.

Incus is asked for the list only after something happened to an instance; an agent is asked soon
after that, and from time to time while nothing happens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from tinyagentos.agents.order import STAGE_KEY
from tinyagentos.agents.readiness import Answer
from tinyagentos.agents.record import is_agent
from tinyagentos.agents.steps import DEPLOYED
from tinyagentos.incus import Event, Incus, IncusError, Instance

_log = logging.getLogger(__name__)
# Seconds between two questions to an agent: soon after a change, then longer and longer.
SOON, LONGEST, GROWTH = 2.0, 60.0, 1.6
# One failure of an agent that was ready may be an accident.
FAILURES = 2
AT_ONCE = 4
BREATH = 0.04
# The loop gathers what is due, rather than waking for each agent.
LEAST_PAUSE = 0.5
FIRST_WITHIN = 1.0
AGAIN_AFTER = 10.0
UNKNOWN = Answer(0, "")
# After these something else runs in the instance, or nothing.
ANEW = frozenset(
    {"instance-started", "instance-restarted", "instance-stopped", "instance-shutdown"}
)

Ask = Callable[[Instance], Awaitable[Answer]]


@dataclass
class _Health:
    """What an agent answered, and when it is asked again."""

    shown: Answer = UNKNOWN
    failures: int = 0
    wait: float = SOON
    due: float = 0.0
    known: asyncio.Event = field(default_factory=asyncio.Event)


class Watch:
    """The instances of the project and the health of the agents among them."""

    def __init__(
        self,
        incus: Incus,
        ask: Ask,
        jobs_ended: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """jobs_ended: how many jobs have ended; what they did is seen at once."""
        self._incus = incus
        self._ask = ask
        self._jobs_ended = jobs_ended
        self._clock = clock
        self._instances: tuple[Instance, ...] | None = None
        self._follows = False
        self._stale = True
        self._seen_ended = -1
        self._listing = asyncio.Lock()
        self._health: dict[str, _Health] = {}
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(AT_ONCE)
        # Set whenever Incus was away and is back, and at first.
        self.reconnected = asyncio.Event()
        self._listeners: set[asyncio.Event] = set()

    async def run(self) -> None:
        """Follow Incus and ask agents until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_for_ever("following Incus", self._follow))
            group.create_task(_for_ever("asking agents", self._keep_asking))

    async def instances(self) -> tuple[Instance, ...]:
        """Every instance as it is now.

        While Incus is away they are as they were: agents go on without it. Raises IncusError only
        when they were never seen.
        """
        async with self._listing:
            ended = self._jobs_ended()
            fresh = self._follows and not self._stale and ended == self._seen_ended
            if self._instances is None or not fresh:
                self._stale = False
                try:
                    self._instances = await self._incus.instances.list()
                    self._seen_ended = ended
                except IncusError:
                    self._stale = True
                    if self._instances is None or not self._follows:
                        raise
            return self._instances

    async def answer(self, instance: Instance) -> Answer:
        """What the agent answered last; it is asked itself only when that is not known.

        UNKNOWN when it does not answer at once the first time.
        """
        if not self._follows:
            return await self._ask_safely(instance)
        health = self._health.setdefault(instance.name, _Health())
        if not health.known.is_set():
            self._wake.set()
            try:
                async with asyncio.timeout(FIRST_WITHIN):
                    await health.known.wait()
            except TimeoutError:
                return UNKNOWN
        return health.shown

    def note(self, name: str, answer: Answer) -> None:
        """Somebody else asked the agent."""
        self._take(self._health.setdefault(name, _Health()), answer)

    async def changes(self) -> AsyncIterator[None]:
        """Something whenever an instance or an agent's health changed."""
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield
        finally:
            self._listeners.discard(changed)

    async def _follow(self) -> None:
        try:
            async for event in self._incus.events(("lifecycle",)):
                self._follows, self._stale = True, True
                if isinstance(event, Event) and (name := _instance_of(event.source)):
                    if event.action in ANEW:
                        # What it answered before says nothing of what runs now.
                        self._health.pop(name, None)
                    self._ask_soon(name)
                elif not isinstance(event, Event):
                    self.reconnected.set()
                    for health in self._health.values():
                        health.due = 0.0
                self._tell()
        except IncusError as error:
            _log.warning("Incus's events cannot be followed: %s", error)
        finally:
            self._follows = False

    def _ask_soon(self, name: str) -> None:
        if health := self._health.get(name):
            health.due, health.wait = 0.0, SOON
        self._wake.set()

    def _tell(self) -> None:
        for changed in self._listeners:
            changed.set()

    async def _keep_asking(self) -> None:
        while True:
            pause = await self._ask_due()
            self._wake.clear()
            await asyncio.sleep(LEAST_PAUSE)
            try:
                async with asyncio.timeout(max(0.0, pause - LEAST_PAUSE)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ask_due(self) -> float:
        """Ask the agents whose time has come; seconds until the next one's."""
        try:
            agents = {one.name: one for one in await self.instances() if _can_answer(one)}
        except IncusError:
            return LONGEST
        for name in self._health.keys() - agents.keys():
            del self._health[name]
        now = self._clock()
        due = [one for name, one in agents.items() if self._of(name).due <= now]
        await asyncio.gather(*(self._ask_one(one) for one in due))
        return min((self._of(name).due for name in agents), default=now + LONGEST) - self._clock()

    def _of(self, name: str) -> _Health:
        return self._health.setdefault(name, _Health())

    async def _ask_one(self, instance: Instance) -> None:
        # An answer to what was asked before the instance ran anew says nothing of it.
        health = self._of(instance.name)
        async with self._places:
            answer = await self._ask_safely(instance)
            # Hundreds are asked over a second or two: who else asks the server does not wait.
            await asyncio.sleep(BREATH)
        self._take(health, answer)

    async def _ask_safely(self, instance: Instance) -> Answer:
        """What the agent answers; one that cannot be asked at all is unhealthy, and nobody else."""
        try:
            return await self._ask(instance)
        except Exception as error:
            _log.exception("an agent could not be asked", extra={"instance": instance.name})
            return Answer(0, f"it could not be asked ({type(error).__name__})")

    def _take(self, health: _Health, answer: Answer) -> None:
        before = health.shown
        health.failures = 0 if answer.is_ready else health.failures + 1
        if not (before.is_ready and 0 < health.failures < FAILURES):
            health.shown = answer
        steady = health.shown == before and answer == before
        health.wait = min(LONGEST, health.wait * GROWTH) if steady else SOON
        health.due = self._clock() + health.wait
        health.known.set()
        if health.shown != before:
            self._tell()


async def _for_ever(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do it again when it ends: a server that no longer watches would show old states as new."""
    while True:
        try:
            await work()
        except Exception:
            _log.exception("%s broke off", what)
        await asyncio.sleep(AGAIN_AFTER)


def _can_answer(instance: Instance) -> bool:
    is_deployed = instance.config.get(STAGE_KEY) == DEPLOYED
    return is_agent(instance) and is_deployed and instance.is_running


def _instance_of(source: str) -> str:
    """The instance in a lifecycle event's source, such as `/1.0/instances/x/snapshots/y`."""
    _, found, rest = source.partition("/instances/")
    return rest.partition("/")[0].partition("?")[0] if found else ""
