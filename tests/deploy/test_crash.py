"""The server dies in every step of every job kind; the next one ends the job without help."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.cases import (
    CASES,
    Case,
    Channel,
    begin_world,
    in_each_step,
    prepared,
    sum_up,
    undisturbed,
)
from tests.deploy.world import NOTHING, Taos, left_over, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.keep import STEPS as KEEP_STEPS
from tinyagentos.agents.steps import BUILD_STEPS, IMAGE_STEPS, WAIT_BUILD
from tinyagentos.model.agent import AgentSpec, AgentState
from tinyagentos.model.job import JobState

# Seen in test_fastest.py: it takes another deploy to wait for.
ELSEWHERE = {WAIT_BUILD}


def test_every_kind_of_job_and_each_of_its_steps_is_disturbed(folder: Path) -> None:
    kinds = Taos(folder, FakeIncus(folder / "incus.sock")).runner.kinds
    assert {case.kind for case in CASES} == set(kinds)
    for kind in kinds.values():
        taken = {step for case in CASES if case.kind == kind.name for step in case.steps}
        # The steps of `upgrade all` are agents.
        assert set(kind.steps) - ELSEWHERE == taken or not kind.steps, kind.name


@in_each_step
async def test_the_server_dies(
    case: Case, step: str, folder: Path, fake: FakeIncus, channel: Channel
) -> None:
    taos = await prepared(case, folder, fake, channel)
    fake.ready_after = 1
    job = await case.begin(taos)
    await taos.until(job.id, step)
    await taos.die()
    second = begin_world(folder, fake, channel)
    ended = await second.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    await second.idle()
    assert await sum_up(second) == await undisturbed(case, channel)
    await second.close()


async def crash_in(step: str, taos: Taos, job_id: str, folder: Path, fake: FakeIncus) -> Taos:
    """Kill the server in the step; a new one on the same files."""
    await taos.until(job_id, step)
    await taos.die()
    return Taos(folder, fake).start()


async def assert_one_ready_agent(taos: Taos, fake: FakeIncus, folder: Path) -> None:
    [agent] = await taos.agents.list_agents()
    assert agent.state is AgentState.ready
    assert left_over(fake, folder) == {
        "instances": [agent.instance],
        "volumes": [f"{agent.instance}-state"],
        "sockets": [f"{agent.instance}.sock"],
    }
    assert all(not one.snapshots for one in fake.project().instances.values())


@pytest.mark.parametrize("step", IMAGE_STEPS)
async def test_a_deploy_by_image(step: str, folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    fake.ready_after = 1
    first = Taos(folder, fake).start()
    job = await first.agents.start_deploy(AgentSpec("hello"))
    second = await crash_in(step, first, job.id, folder, fake)
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    await assert_one_ready_agent(second, fake, folder)
    await second.close()


@pytest.mark.parametrize("step", BUILD_STEPS)
async def test_a_deploy_by_build(step: str, folder: Path, fake: FakeIncus) -> None:
    fake.ready_after = 1
    first = Taos(folder, fake).start()
    job = await first.agents.start_deploy(AgentSpec("hello"))
    second = await crash_in(step, first, job.id, folder, fake)
    ended = await second.runner.wait_job(job.id)
    assert (ended.state, ended.source) == (JobState.succeeded, "build")
    await second.idle()
    await assert_one_ready_agent(second, fake, folder)
    assert {row.framework for row in await second.images.list_images()} == {
        "openclaw",
        "debian-13",
    }
    await second.close()


@pytest.mark.parametrize("step", KEEP_STEPS)
async def test_keeping_the_image(step: str, folder: Path, fake: FakeIncus) -> None:
    first = Taos(folder, fake).start()
    await first.deploy("hello")
    [keeping] = first.runner.list_active()
    second = await crash_in(step, first, keeping.id, folder, fake)
    assert (await second.runner.wait_job(keeping.id)).state is JobState.succeeded
    await assert_one_ready_agent(second, fake, folder)
    assert len(fake.project().images) == 2
    await second.close()


@pytest.mark.parametrize("step", BUILD_STEPS)
async def test_a_cancel_is_not_forgotten(step: str, folder: Path, fake: FakeIncus) -> None:
    fake.ready_after = None
    first = Taos(folder, fake).start()
    job = await first.agents.start_deploy(AgentSpec("hello"))
    await first.until(job.id, step)
    first.runner.cancel_job(job.id)
    await first.die()
    second = Taos(folder, fake).start()
    assert (await second.runner.wait_job(job.id)).state is JobState.cancelled
    assert left_over(fake, folder) == NOTHING
    await second.close()


@pytest.mark.parametrize("action", ["start", "stop", "restart", "delete"])
async def test_an_agents_life(action: str, folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    first = Taos(folder, fake).start()
    await first.deploy("hello")
    if action == "delete":
        job = await first.agents.start_delete("hello")
    else:
        job = await first.agents.start_power("hello", action)  # type: ignore[arg-type]
    step = first.runner.kinds[action].steps[0]
    second = await crash_in(step, first, job.id, folder, fake)
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    if action == "delete":
        assert left_over(fake, folder) == NOTHING
    else:
        state = (await second.agents.get_agent("hello")).state
        assert state == (AgentState.stopped if action == "stop" else AgentState.ready)
    await second.close()


@pytest.mark.parametrize("step", BUILD_STEPS)
async def test_a_restart_of_incus_is_survived(step: str, folder: Path, fake: FakeIncus) -> None:
    fake.ready_after = 1
    taos = Taos(folder, fake).start()
    job = await taos.agents.start_deploy(AgentSpec("hello"))
    await taos.until(job.id, step)
    await fake.restart()
    ended = await taos.runner.wait_job(job.id)
    await taos.idle()
    if ended.state is JobState.succeeded:
        await assert_one_ready_agent(taos, fake, folder)
    else:
        assert ended.error
        assert left_over(fake, folder) == NOTHING
    await taos.close()
