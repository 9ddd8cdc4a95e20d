"""A deploy takes the quicker way, leaves it when it turns out slow, and makes one agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.deploy.test_download import Released, begin
from tests.deploy.world import Taos, left_over
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.mirror import Mirror
from tinyagentos.agents.choice import LOOK_WITHIN, needs_line
from tinyagentos.agents.steps import BASE, INSTALL, PLAN, WAIT_IMAGE
from tinyagentos.model.agent import AgentSpec, AgentState, Source
from tinyagentos.model.job import Job, JobState, StepState

# What the recipes say a build takes, with its base, where nothing was measured.
BUILD_SECONDS = 35


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return Released(tmp_path, more_bytes=500_000)


@pytest.fixture
async def web(released: Released) -> AsyncIterator[Mirror]:
    async with Mirror(released.files) as running:
        yield running


def slow(released: Released) -> int:
    """A rate at which the download takes much longer than a build."""
    return released.target.size_bytes // (BUILD_SECONDS * 4)


def middling(released: Released) -> int:
    """A rate at which it takes some seconds."""
    return released.target.size_bytes // 5


async def deploy(taos: Taos, source: Source = Source.fastest) -> Job:
    return await taos.agents.start_deploy(AgentSpec("hello", source=source))


async def assert_one_agent(taos: Taos, fake: FakeIncus, folder: Path) -> None:
    [agent] = await taos.agents.list_agents()
    assert agent.state is AgentState.ready
    left = left_over(fake, folder)
    assert left["volumes"] == [f"{agent.instance}-state"]
    assert left["instances"] == [agent.instance]


async def test_a_quick_download_is_waited_for(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = middling(released)
    taos = begin(folder, fake, released, web)
    job = await taos.runner.wait_job((await deploy(taos)).id)
    assert (job.state, job.source) == (JobState.succeeded, "image"), job
    assert "the download takes about" in job.source_reason
    [wait] = [step for step in job.steps if step.name == WAIT_IMAGE]
    assert wait.done_bytes == wait.total_bytes == released.target.size_bytes
    assert taos.builder.builds == 0
    await assert_one_agent(taos, fake, folder)
    await taos.close()


async def test_a_slow_download_is_left_to_itself(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = slow(released)
    taos = begin(folder, fake, released, web)
    job = await taos.runner.wait_job((await deploy(taos)).id)
    assert (job.state, job.source) == (JobState.succeeded, "build")
    assert "the download takes about" in job.source_reason
    assert taos.images.find_download("openclaw")
    web.rate = 0
    await taos.idle()
    assert fake.project().aliases["openclaw/x64"] == released.target.fingerprint
    assert released.target.fingerprint in fake.project().images
    assert len(fake.project().images) == 2  # the base; what the build left made way
    await assert_one_agent(taos, fake, folder)
    await taos.close()


async def test_the_image_that_comes_first_is_switched_to(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.stall_after = 100_000
    taos = begin(folder, fake, released, web, image_stall=4)
    taos.builder.go_on.clear()
    job = await deploy(taos)
    await taos.until(job.id, INSTALL)
    assert any(needs_line(one) for one in taos.runner.list_active())
    ended = await taos.runner.wait_job(job.id)
    assert (ended.state, ended.source) == (JobState.succeeded, "image")
    assert "before the build" in ended.source_reason
    states = {step.name: step.state for step in ended.steps}
    assert states[INSTALL] is StepState.cancelled
    await assert_one_agent(taos, fake, folder)
    await taos.close()


async def test_a_download_that_becomes_slow_is_left_for_the_build(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = middling(released)
    taos = begin(folder, fake, released, web)
    job = await deploy(taos)
    await taos.until(job.id, WAIT_IMAGE)
    web.rate = slow(released) // 4
    ended = await taos.runner.wait_job(job.id)
    assert (ended.state, ended.source) == (JobState.succeeded, "build")
    assert "slowed down" in ended.source_reason
    await taos.close()


async def test_a_download_that_fails_is_left_for_the_build(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = middling(released)
    web.files[released.target.file_name] = released.content[:-1] + b"\1"
    taos = begin(folder, fake, released, web)
    job = await taos.runner.wait_job((await deploy(taos)).id)
    assert (job.state, job.source) == (JobState.succeeded, "build")
    assert "not the signed one" in job.source_reason or "damaged" in job.source_reason
    await assert_one_agent(taos, fake, folder)
    await taos.close()


@pytest.mark.parametrize("trouble", ["refuses", "stalls", "sends garbage"])
async def test_a_channel_in_trouble_keeps_no_deploy_waiting(
    trouble: str, folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    if trouble == "refuses":
        web.status = 503
    elif trouble == "stalls":
        web.stall_after, web.stalls = 100_000, 1000
    else:
        web.files = dict.fromkeys(web.files, b"{}")
    taos = begin(folder, fake, released, web)
    async with asyncio.timeout(15):
        job = await taos.runner.wait_job((await deploy(taos)).id)
    assert (job.state, job.source) == (JobState.succeeded, "build")
    assert job.source_reason
    await taos.close()


async def test_a_build_that_was_asked_for_does_not_look_first(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = slow(released)
    taos = begin(folder, fake, released, web)
    job = await taos.runner.wait_job((await deploy(taos, Source.build)).id)
    assert (job.state, job.source_reason) == (JobState.succeeded, "the build path was asked for")
    assert taos.images.find_download("openclaw"), "the next deploy is the quicker for it"
    [plan] = [step for step in job.steps if step.name == PLAN]
    assert plan.seconds < LOOK_WITHIN / 2
    await taos.close()


async def test_the_image_alone_fails_with_the_downloads_reason(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.files = dict.fromkeys(web.files, b"{}")
    taos = begin(folder, fake, released, web)
    job = await taos.runner.wait_job((await deploy(taos, Source.image)).id)
    assert (job.state, taos.builder.builds) == (JobState.failed, 0)
    assert job.error
    assert job.error.code == "unavailable"
    assert left_over(fake, folder)["instances"] == []
    await taos.close()


@pytest.mark.parametrize("step", [WAIT_IMAGE, BASE, INSTALL])
async def test_a_crash_while_the_image_comes(
    step: str, folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = middling(released) if step == WAIT_IMAGE else slow(released)
    first = begin(folder, fake, released, web)
    job = await deploy(first)
    await first.until(job.id, step)
    await first.die()
    web.rate = 0
    second = begin(folder, fake, released, web)
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    await second.idle()
    assert fake.project().aliases["openclaw/x64"] == released.target.fingerprint
    await assert_one_agent(second, fake, folder)
    await second.close()


async def test_a_cancel_while_the_image_comes(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = middling(released)
    taos = begin(folder, fake, released, web)
    job = await deploy(taos)
    await taos.until(job.id, WAIT_IMAGE)
    taos.runner.cancel_job(job.id)
    assert (await taos.runner.wait_job(job.id)).state is JobState.cancelled
    assert taos.images.find_download("openclaw"), "the next deploy is the quicker for it"
    await taos.close()
