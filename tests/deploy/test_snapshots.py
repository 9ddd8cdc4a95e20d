"""Snapshots of the state, and bringing them back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.snapshots import RESTORE_STEPS, check_snapshot_name
from tinyagentos.model.agent import AgentState
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound
from tinyagentos.model.job import JobState


async def deployed(folder: Path, fake: FakeIncus) -> Taos:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    return taos


async def names(taos: Taos) -> list[str]:
    return [one.name for one in await taos.agents.list_snapshots("hello")]


async def keep(taos: Taos, called: str) -> None:
    job = await taos.agents.start_snapshot("hello", called)
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded


async def test_made_listed_removed(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake)
    await keep(taos, "one")
    await keep(taos, "")
    assert (await names(taos))[0] == "one"
    assert len(await names(taos)) == 2
    with pytest.raises(Conflict):
        await taos.agents.start_snapshot("hello", "one")
    job = await taos.agents.start_drop("hello", "one")
    await taos.runner.wait_job(job.id)
    assert "one" not in await names(taos)
    with pytest.raises(NotFound):
        await taos.agents.start_drop("hello", "one")
    await taos.close()


@pytest.mark.parametrize("step", ["", *RESTORE_STEPS])
async def test_restored_after_a_crash_in_each_step(
    step: str, folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake)
    await keep(taos, "one")
    fake.ready_after = 1
    job = await taos.agents.start_restore("hello", "one")
    if step:
        await taos.until(job.id, step)
        await taos.die()
        taos = Taos(folder, fake).start()
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert (await taos.agents.get_agent("hello")).state is AgentState.ready
    assert await names(taos) == ["one", f"before-{job.id}"]
    await taos.close()


async def test_a_state_the_agent_does_not_start_with_is_not_left(
    folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake)
    await keep(taos, "one")
    fake.ready_after = None
    job = await taos.agents.start_restore("hello", "one")
    await taos.until(job.id, "roll back")
    fake.ready_after = 0
    ended = await taos.runner.wait_job(job.id)
    assert ended.error
    assert ended.error.code == "not_ready"
    assert (await taos.agents.get_agent("hello")).state is AgentState.ready
    await taos.close()


async def test_a_stopped_agent_stays_stopped(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake)
    await keep(taos, "one")
    stopping = await taos.agents.start_power("hello", "stop")
    await taos.runner.wait_job(stopping.id)
    job = await taos.agents.start_restore("hello", "one")
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert (await taos.agents.get_agent("hello")).state is AgentState.stopped
    await taos.close()


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a..b", "x" * 64, "-a", "a b", "é"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_snapshot_name(name)
