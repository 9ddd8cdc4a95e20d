"""State that outlives its agent, and a new agent that begins with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.world import GIB, NOTHING, Taos, left_over, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.lifecycle import REMOVE
from tinyagentos.agents.steps import BUILD_STEPS, IMAGE_STEPS
from tinyagentos.model.agent import AgentSpec, AgentState
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound
from tinyagentos.model.job import JobState


async def with_kept(folder: Path, fake: FakeIncus) -> tuple[Taos, str]:
    """A server with the state of an agent `old`, and the state's name."""
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("old")
    job = await taos.agents.start_delete("old", keep_state=True)
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    [kept] = await taos.agents.list_kept()
    assert (kept.agent, kept.framework) == ("old", "openclaw")
    return taos, kept.name


async def mark(fake: FakeIncus) -> None:
    """Make the one volume recognisable."""
    [volume] = fake.project().volumes.values()
    volume["config"]["user.test"] = "mine"


async def test_the_state_stays_and_the_rest_goes(folder: Path, fake: FakeIncus) -> None:
    taos, name = await with_kept(folder, fake)
    assert left_over(fake, folder) == NOTHING | {"volumes": [name]}
    with pytest.raises(NotFound):
        await taos.agents.drop_kept("nothing")
    await taos.agents.drop_kept(name)
    assert left_over(fake, folder) == NOTHING
    assert await taos.agents.list_kept() == ()
    await taos.close()


async def test_a_state_that_is_taken_up_has_room(folder: Path, fake: FakeIncus) -> None:
    taos, _ = await with_kept(folder, fake)
    [volume] = fake.project().volumes.values()
    del volume["config"]["size"]  # an imported one, or one of an older taOS
    volume["used"] = 20 * GIB
    with pytest.raises(Conflict, match="may hold up to"):
        await taos.agents.start_deploy(AgentSpec("new", state_of="old", state_bytes=24 * GIB))
    await taos.deploy("new", state_of="old")
    assert await taos.agents.get_state_bytes("new") == 25 * GIB
    await taos.close()


async def test_an_undone_deploy_gives_the_state_back_and_its_limit_may_stay(
    folder: Path, fake: FakeIncus
) -> None:
    taos, name = await with_kept(folder, fake)
    fake.fail_next("POST /1.0/instances", 400, "no", in_work=True)
    job = await taos.deploy("new", state_of="old", state_bytes=30 * GIB)
    assert job.state is JobState.failed
    assert [one.name for one in await taos.agents.list_kept()] == [name]
    await taos.deploy("new", state_of="old", state_bytes=15 * GIB)
    assert await taos.agents.get_state_bytes("new") == 15 * GIB
    await taos.close()


@pytest.mark.parametrize("step", ["", REMOVE])
async def test_keeping_survives_a_crash(step: str, folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("old")
    job = await taos.agents.start_delete("old", keep_state=True)
    if step:
        await taos.until(job.id, step)
    await taos.die()
    second = Taos(folder, fake).start()
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    assert [one.agent for one in await second.agents.list_kept()] == ["old"]
    await second.close()


@pytest.mark.parametrize("step", ["", *dict.fromkeys((*IMAGE_STEPS, *BUILD_STEPS))])
async def test_a_new_agent_begins_with_it_after_a_crash_in_each_step(
    step: str, folder: Path, fake: FakeIncus
) -> None:
    taos, _ = await with_kept(folder, fake)
    await mark(fake)
    source = "build" if step in BUILD_STEPS and step not in IMAGE_STEPS else "image"
    job = await taos.agents.start_deploy(AgentSpec("new", source=source, state_of="old"))  # type: ignore[arg-type]
    if step:
        await taos.until(job.id, step)
        await taos.die()
        taos = Taos(folder, fake).start()
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    [((_, volume), found)] = fake.project().volumes.items()
    agent = await taos.agents.get_agent("new")
    assert (volume, agent.state) == (f"{agent.instance}-state", AgentState.ready)
    assert found["config"]["user.test"] == "mine"
    assert await taos.agents.list_kept() == ()
    await taos.close()


@pytest.mark.parametrize("step", BUILD_STEPS)
async def test_a_deploy_that_ends_otherwise_gives_it_back(
    step: str, folder: Path, fake: FakeIncus
) -> None:
    taos, name = await with_kept(folder, fake)
    await mark(fake)
    fake.ready_after = None
    job = await taos.agents.start_deploy(AgentSpec("new", source="build", state_of=name))  # type: ignore[arg-type]
    await taos.until(job.id, step)
    taos.runner.cancel_job(job.id)
    assert (await taos.runner.wait_job(job.id)).state is JobState.cancelled
    [kept] = await taos.agents.list_kept()
    assert (kept.name, kept.agent) == (name, "old")
    assert left_over(fake, folder) == NOTHING | {"volumes": [name]}
    [found] = fake.project().volumes.values()
    assert found["config"]["user.test"] == "mine"
    await taos.close()


async def test_only_one_deploy_takes_it(folder: Path, fake: FakeIncus) -> None:
    taos, name = await with_kept(folder, fake)
    taos.builder.go_on.clear()
    job = await taos.agents.start_deploy(AgentSpec("new", source="build", state_of="old"))  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        await taos.agents.start_deploy(AgentSpec("other", state_of="old"))
    with pytest.raises((Conflict, NotFound)):
        await taos.agents.drop_kept(name)
    taos.builder.go_on.set()
    await taos.runner.wait_job(job.id)
    with pytest.raises(NotFound):
        await taos.agents.start_deploy(AgentSpec("other", state_of="old"))
    await taos.close()


async def test_it_belongs_to_its_framework(folder: Path, fake: FakeIncus) -> None:
    taos, _ = await with_kept(folder, fake)
    [volume] = fake.project().volumes.values()
    volume["config"]["user.taos.framework"] = "another"
    with pytest.raises(InvalidInput, match="another's"):
        await taos.agents.start_deploy(AgentSpec("new", state_of="old"))
    await taos.close()
