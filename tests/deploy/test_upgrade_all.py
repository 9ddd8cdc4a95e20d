"""All agents are upgraded by one job, in turn; what one does not take no other is given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web

from tests.deploy.cases import done, newer_image
from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.requests import UPGRADE_ALL
from tinyagentos.agents.upgrade import UPGRADE
from tinyagentos.model.agent import AgentState
from tinyagentos.model.errors import Conflict, NoSpace
from tinyagentos.model.job import Job, JobState, StepState

NEW = "2099.1.1"


async def with_agents(taos: Taos, *names: str) -> None:
    """Agents that there is something newer for."""
    with_image(taos.fake)
    for name in names:
        await taos.deploy(name)
    newer_image(taos, "d", NEW)


async def versions(taos: Taos) -> dict[str, tuple[str, AgentState]]:
    return {one.name: (one.version, one.state) for one in await taos.agents.list_agents()}


def upgrades(taos: Taos) -> list[Job]:
    return [job for job in reversed(taos.runner.list_jobs()) if job.kind == UPGRADE]


def steps(job: Job) -> list[tuple[str, StepState]]:
    return [(step.name, step.state) for step in job.steps if step.name != "roll back"]


def break_agents(fake: FakeIncus, broken: Sequence[str]) -> None:
    """Have agents of these names never become ready once they have the new root."""

    async def answer(request: web.Request, instance: str) -> web.Response:
        image = fake.project().instances[instance].json["config"]["volatile.base_image"]
        ill = instance.rpartition("-")[0] in broken and image.startswith("d")
        return web.Response(status=503 if ill else 200)

    fake.answer = answer


async def test_each_agent_in_turn_as_a_job_of_its_own(taos: Taos) -> None:
    await with_agents(taos, "a", "b", "c")
    job = await done(taos, await taos.agents.start_upgrade_all())
    assert job.kind == UPGRADE_ALL
    assert steps(job) == [(f"upgrade {name}", StepState.succeeded) for name in "abc"]
    assert await versions(taos) == dict.fromkeys("abc", (NEW, AgentState.ready))
    each = upgrades(taos)
    assert [one.subject for one in each] == ["agent:a", "agent:b", "agent:c"]
    for before, after in pairwise(each):
        assert before.finished_at
        assert before.finished_at <= after.created_at, "one after the other"
    assert [step.detail.split(":")[0] for step in job.steps] == [f"job {one.id}" for one in each]
    with pytest.raises(Conflict, match="Every agent has the newest"):
        await taos.agents.start_upgrade_all()


async def test_a_version_that_one_agent_does_not_take_is_given_to_no_other(taos: Taos) -> None:
    await with_agents(taos, "a", "b", "c", "d")
    old = taos.host.recipes["openclaw"].version
    break_agents(taos.fake, ["b"])
    job = await taos.agents.start_upgrade_all()
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.failed
    assert ended.error
    assert ended.error.code == "not_ready"
    assert ended.error.message.startswith("1 of 4 agents were not upgraded: b (")
    assert ended.error.message.endswith("For that, these were left out: c, d.")
    assert steps(ended) == [
        ("upgrade a", StepState.succeeded),
        ("upgrade b", StepState.failed),
        ("upgrade c", StepState.cancelled),
        ("upgrade d", StepState.cancelled),
    ]
    assert [step.detail for step in ended.steps if step.name == "upgrade c"] == [
        "b did not take that version"
    ]
    assert {name: seen[0] for name, seen in (await versions(taos)).items()} == {
        "a": NEW, "b": old, "c": old, "d": old,
    }  # fmt: skip
    taos.fake.answer = None
    again = await done(taos, await taos.runner.retry_job(ended.id))
    assert steps(again) == [(f"upgrade {name}", StepState.succeeded) for name in "bcd"]


async def test_another_version_is_still_tried(taos: Taos) -> None:
    await with_agents(taos, "a", "b")
    break_agents(taos.fake, ["a"])
    go = taos.fake.hold_next("PUT /1.0/instances/a-*/state")
    job = await taos.agents.start_upgrade_all()
    await taos.until(job.id, "upgrade a")
    await asyncio.sleep(0.1)
    newer_image(taos, "e", "2099.1.2")
    go.set()
    ended = await taos.runner.wait_job(job.id)
    assert [state for _, state in steps(ended)] == [StepState.failed, StepState.succeeded]
    assert (await versions(taos))["b"][0] == "2099.1.2"


async def test_it_goes_on_after_a_restart_and_begins_no_upgrade_twice(
    folder: Path, fake: FakeIncus
) -> None:
    taos = Taos(folder, fake).start()
    await with_agents(taos, "a", "b", "c")
    job = await taos.agents.start_upgrade_all()
    await taos.until(job.id, "upgrade b")
    await taos.die()
    second = Taos(folder, fake).start()
    await done(second, job)
    assert [one.subject for one in upgrades(second)] == ["agent:a", "agent:b", "agent:c"]
    assert await versions(second) == dict.fromkeys("abc", (NEW, AgentState.ready))
    await second.close()


@pytest.mark.parametrize("dies", [False, True])
async def test_a_cancel_ends_the_one_under_way_and_leaves_those_done(
    dies: bool, folder: Path, fake: FakeIncus
) -> None:
    taos = Taos(folder, fake).start()
    await with_agents(taos, "a", "b", "c")
    old = taos.host.recipes["openclaw"].version
    job = await taos.agents.start_upgrade_all()
    await taos.until(job.id, "upgrade b")
    fake.ready_after = 3
    async with asyncio.timeout(10):
        while len(upgrades(taos)) < 2:
            await asyncio.sleep(0)
    await taos.until(upgrades(taos)[1].id, "stop agent")
    taos.runner.cancel_job(job.id)
    if dies:
        await taos.die()
        taos = Taos(folder, fake).start()
    assert (await taos.runner.wait_job(job.id)).state is JobState.cancelled
    await taos.idle()
    assert [one.state for one in upgrades(taos)] == [JobState.succeeded, JobState.cancelled]
    assert {name: seen[0] for name, seen in (await versions(taos)).items()} == {
        "a": NEW, "b": old, "c": old,
    }  # fmt: skip
    again = await taos.runner.retry_job(job.id)
    await done(taos, again)
    assert {seen[0] for seen in (await versions(taos)).values()} == {NEW}
    await taos.close()


async def test_agents_that_went_or_are_at_work_meanwhile(taos: Taos) -> None:
    await with_agents(taos, "a", "b", "c")
    go = taos.fake.hold_next("PUT /1.0/instances/a-*/state")
    job = await taos.agents.start_upgrade_all()
    await taos.until(job.id, "upgrade a")
    await asyncio.sleep(0.05)
    await done(taos, await taos.agents.start_delete("b"))
    stop = await taos.agents.start_power("c", "stop")
    go.set()
    ended = await done(taos, job)
    assert (await taos.runner.wait_job(stop.id)).state is JobState.succeeded
    assert [step.state for step in ended.steps] == [StepState.succeeded] * 3
    assert "no agent 'b'" in ended.steps[1].detail
    assert await versions(taos) == {
        "a": (NEW, AgentState.ready), "c": (NEW, AgentState.stopped),
    }  # fmt: skip


async def test_an_upgrade_needs_room(taos: Taos) -> None:
    await with_agents(taos, "a")
    space = taos.fake.pools["taos"]["resources"]["space"]
    space["used"] = space["total"] - 1
    with pytest.raises(NoSpace, match="MiB free"):
        await taos.agents.start_upgrade("a")
    job = await taos.runner.wait_job((await taos.agents.start_upgrade_all()).id)
    assert (job.state, job.error and job.error.code) == (JobState.failed, "no_space")
    assert upgrades(taos) == []
