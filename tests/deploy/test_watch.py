"""Agents are known without asking: lists without Incus, health by events and a slow loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.fake_parts import FakeAgent
from tinyagentos.agents import watch as module
from tinyagentos.agents.readiness import Answer
from tinyagentos.agents.watch import FAILURES, LONGEST, SOON, Watch
from tinyagentos.model.agent import AgentState

READY, ILL = Answer(200, "200"), Answer(503, "503 out of order")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_PAUSE", 0.01)


@pytest.fixture
async def watched(folder: Path, fake: FakeIncus) -> AsyncIterator[Taos]:
    """A server whose watch runs, with one ready agent."""
    with_image(fake)
    taos = Taos(folder, fake).start()
    running = asyncio.create_task(taos.host.watch.run())
    await taos.deploy("hello")
    await until(lambda: taos.host.watch._follows)
    assert await state(taos) is AgentState.ready
    yield taos
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await taos.close()


async def until(what: Callable[[], bool], within: float = 5) -> None:
    async with asyncio.timeout(within):
        while not what():
            await asyncio.sleep(0.01)


async def state(taos: Taos) -> AgentState:
    return (await taos.agents.get_agent("hello")).state


def doors(taos: Taos) -> list[FakeAgent]:
    """What answers behind the agents' doors."""
    return [one for found in taos.fake.project().instances.values() for one in found.agents]


async def comes(taos: Taos, wanted: AgentState) -> None:
    async with asyncio.timeout(10):
        while await state(taos) is not wanted:
            await asyncio.sleep(0.02)


async def rest(taos: Taos) -> None:
    """Have nobody asked by the loop from now on, nor under way of being asked."""
    health = taos.host.watch._health.values()
    while True:
        for one in health:
            one.due = math.inf
        await asyncio.sleep(0.1)  # who was being asked gets a new time then
        if all(one.due == math.inf for one in health):
            return


async def test_looking_asks_neither_incus_nor_the_agent(watched: Taos) -> None:
    await watched.agents.list_agents()
    # The loop asks by itself now and then; here nobody but the looking shall.
    await rest(watched)
    asked, health = len(watched.fake.calls), sum(one.asked for one in doors(watched))
    for _ in range(50):
        assert [one.name for one in await watched.agents.list_agents()] == ["hello"]
        assert await state(watched) is AgentState.ready
    assert len(watched.fake.calls) == asked
    assert sum(one.asked for one in doors(watched)) == health


async def test_what_a_job_did_is_seen_at_once(watched: Taos) -> None:
    for action, wanted in (("stop", AgentState.stopped), ("start", AgentState.ready)):
        job = await watched.agents.start_power("hello", action)  # type: ignore[arg-type]
        await watched.runner.wait_job(job.id)
        assert await state(watched) is wanted
    job = await watched.agents.start_delete("hello")
    await watched.runner.wait_job(job.id)
    assert await watched.agents.list_agents() == ()


async def test_what_somebody_did_in_incus_is_seen_soon(watched: Taos) -> None:
    name = (await watched.agents.get_agent("hello")).instance
    await watched.incus.instances.stop(name, force=True)
    await comes(watched, AgentState.stopped)
    await watched.incus.instances.start(name)
    await comes(watched, AgentState.ready)


async def test_one_that_runs_anew_is_not_ready_because_the_one_before_was(watched: Taos) -> None:
    project = watched.fake.project()
    [instance] = project.instances.values()
    seen = []
    watched.fake.ready_after = None
    # Incus does this by itself when an instance's init dies; no job knows of it.
    for running in (False, True):
        await watched.fake.set_running(project, instance, running)
    async with asyncio.timeout(5):
        while not seen or seen[-1] is not AgentState.unhealthy:
            await asyncio.sleep(0.02)
            seen.append(await state(watched))
    # The event takes a moment; a second failure, which takes seconds, is not waited for.
    assert len([one for one in seen if one is AgentState.ready]) < 10
    doors(watched)[0].ready_after = 0
    await comes(watched, AgentState.ready)


async def test_while_incus_is_away_agents_are_as_they_were(watched: Taos) -> None:
    await watched.agents.list_agents()
    await watched.fake.stop()
    assert await state(watched) is AgentState.ready
    assert len(await watched.agents.list_agents()) == 1
    await watched.fake.start()
    name = (await watched.agents.get_agent("hello")).instance
    await watched.incus.instances.stop(name, force=True)
    await comes(watched, AgentState.stopped)


async def test_one_failure_is_an_accident_and_two_are_not() -> None:
    now = 0.0
    watch = Watch(None, None, lambda: 0, lambda: now)  # type: ignore[arg-type]
    watch.note("a", READY)
    watch.note("a", ILL)
    assert watch._health["a"].shown == READY
    for _ in range(FAILURES - 1):
        watch.note("a", ILL)
    assert watch._health["a"].shown == ILL
    watch.note("a", READY)
    assert watch._health["a"].shown == READY


async def test_a_steady_agent_is_asked_less_and_less() -> None:
    watch = Watch(None, None, lambda: 0, lambda: 0.0)  # type: ignore[arg-type]
    waits = []
    for _ in range(20):
        watch.note("a", READY)
        waits.append(watch._health["a"].due)
    assert waits[0] == SOON
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST
    watch.note("a", ILL)
    assert watch._health["a"].due == SOON


async def test_an_agent_that_falls_ill_is_told_to_who_listens(
    watched: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SOON", 0.05)
    heard = asyncio.Event()

    async def listen() -> None:
        async for _ in watched.host.watch.changes():
            heard.set()

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    doors(watched)[0].ready_after = None
    name = (await watched.agents.get_agent("hello")).instance
    watched.host.watch._ask_soon(name)
    await comes(watched, AgentState.unhealthy)
    assert (await watched.agents.get_agent("hello")).reason
    await asyncio.wait_for(heard.wait(), 5)
    doors(watched)[0].ready_after = 0
    await comes(watched, AgentState.ready)
    listening.cancel()
