"""What cannot be rolled back, or is not there to be rolled back, holds no agent for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.deploy.cases import done, kept_one, newer_image, offered, upgraded
from tests.deploy.world import Taos, left_over, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.reconcile import reconcile
from tinyagentos.model.agent import AgentSpec, AgentState
from tinyagentos.model.errors import Conflict, NotFound
from tinyagentos.model.job import Job, JobState

REFUSED = "this pool is read-only"


@pytest.fixture
async def hello(taos: Taos, fake: FakeIncus) -> Taos:
    """A server with one agent that can be upgraded."""
    with_image(fake)
    await taos.deploy("hello")
    await offered(taos)
    return taos


async def instance_of(taos: Taos, name: str = "hello") -> str:
    return (await taos.agents.get_agent(name)).instance


def refuse(fake: FakeIncus, route: str, times: int = 100) -> None:
    """Have Incus refuse the route from now on."""
    for _ in range(times):
        fake.fail_next(route, 500, REFUSED)


def allow(fake: FakeIncus) -> None:
    """Have it refuse nothing."""
    fake._faults.clear()


async def failing(taos: Taos, begin: Callable[[], Awaitable[Job]]) -> Job:
    """A job whose agent does not answer, as it begins to be rolled back."""
    taos.fake.ready_after = None
    job = await begin()
    await taos.until(job.id, "wait until ready")
    return job


async def test_a_restore_whose_agent_was_removed_by_hand(hello: Taos) -> None:
    await kept_one(hello)
    name = await instance_of(hello)
    job = await failing(hello, lambda: hello.agents.start_restore("hello", "one"))
    await hello.incus.instances.delete(name, force=True)
    ended = await hello.runner.wait_job(job.id)
    assert (ended.state, ended.error and ended.error.code) == (JobState.failed, "not_ready")
    assert "roll back incomplete" not in (ended.error.message if ended.error else "")
    assert hello.runner.find_active("agent:hello") is None


@pytest.mark.parametrize("which", ["the agent", "the old root", "both"])
async def test_an_upgrade_whose_roots_were_removed_by_hand(which: str, hello: Taos) -> None:
    name = await instance_of(hello)
    job = await failing(hello, lambda: hello.agents.start_upgrade("hello"))
    for one in (name, f"{name}-previous"):
        if which == "both" or (which == "the agent") == (one == name):
            await hello.incus.instances.delete(one, force=True)
    hello.runner.cancel_job(job.id)
    hello.fake.ready_after = 0
    ended = await hello.runner.wait_job(job.id)
    assert ended.state is JobState.cancelled, ended.error
    left = set(hello.fake.project().instances)
    assert left == (set() if which == "both" else {name})
    assert hello.runner.find_active("agent:hello") is None


async def test_a_roll_back_that_incus_refuses_ends_and_the_agent_can_be_used(hello: Taos) -> None:
    fake, name = hello.fake, await instance_of(hello)
    job = await failing(hello, lambda: hello.agents.start_upgrade("hello"))
    refuse(fake, "PUT /1.0/storage-pools/*")
    hello.runner.cancel_job(job.id)
    ended = await hello.runner.wait_job(job.id)
    assert ended.state is JobState.failed
    assert ended.error
    assert ended.error.message == (f"It was cancelled; roll back incomplete: Incus says: {REFUSED}")
    allow(fake)
    fake.ready_after = 0
    assert (await hello.agents.get_agent("hello")).state is AgentState.stopped
    await done(hello, await hello.agents.start_power("hello", "start"))
    assert list(fake.project().instances) == [name]
    [left] = await hello.agents.list_snapshots("hello")
    assert left.name == f"before-{job.id}", "what was to be restored is still there"


async def test_what_a_refused_roll_back_left_is_put_right_later(hello: Taos) -> None:
    fake, before = hello.fake, await hello.agents.get_agent("hello")
    name = before.instance
    job = await failing(hello, lambda: hello.agents.start_upgrade("hello"))
    refuse(fake, f"POST /1.0/instances/{name}-previous")
    hello.runner.cancel_job(job.id)
    ended = await hello.runner.wait_job(job.id)
    assert "roll back incomplete" in (ended.error.message if ended.error else "")
    assert await hello.agents.list_agents() == ()
    allow(fake)
    fake.ready_after = 0
    assert (await reconcile(hello.host)).lost == (name,)
    await hello.idle()
    agent = await hello.agents.get_agent("hello")
    assert (agent.instance, agent.version, agent.state) == (
        name, before.version, AgentState.stopped,
    )  # fmt: skip
    await done(hello, await hello.agents.start_power("hello", "start"))


async def test_a_deploy_that_cannot_be_undone_leaves_an_agent_to_delete(
    taos: Taos, fake: FakeIncus, folder: Path
) -> None:
    with_image(fake)
    fake.ready_after = None
    job = await taos.agents.start_deploy(AgentSpec("hello"))
    await taos.until(job.id, "wait until ready")
    refuse(fake, "DELETE /1.0/instances/*")
    taos.runner.cancel_job(job.id)
    ended = await taos.runner.wait_job(job.id)
    assert ended.error
    assert "roll back incomplete" in ended.error.message
    allow(fake)
    assert (await taos.agents.get_agent("hello")).state is AgentState.failed
    with pytest.raises(Conflict, match="There is an agent 'hello' already"):
        await taos.runner.retry_job(job.id)
    await done(taos, await taos.agents.start_delete("hello"))
    assert left_over(fake, folder) == {"instances": [], "volumes": [], "sockets": []}
    fake.ready_after = 0
    await done(taos, await taos.runner.retry_job(job.id))


async def hindered(taos: Taos, job: Job) -> None:
    """Return when the job's roll back has failed at least once."""
    async for _ in taos.runner.watch_job(job.id):
        if taos.runner.is_hindered(job.id):
            return


async def test_deleting_an_agent_ends_a_roll_back_that_does_not_succeed(
    hello: Taos, folder: Path
) -> None:
    fake = hello.fake
    job = await failing(hello, lambda: hello.agents.start_upgrade("hello"))
    with pytest.raises(Conflict, match="upgrade job is at work"):
        await hello.agents.start_delete("hello")
    refuse(fake, "PUT /1.0/storage-pools/*")
    hello.runner.cancel_job(job.id)
    await hindered(hello, job)
    with pytest.raises(Conflict, match="upgrade job is at work"):
        await hello.agents.start_power("hello", "start")
    deleting = await hello.agents.start_delete("hello")
    assert hello.runner.get_job(job.id).state is JobState.failed
    await done(hello, deleting)
    assert left_over(fake, folder) == {"instances": [], "volumes": [], "sockets": []}


async def test_an_agent_between_its_roots_can_be_deleted_too(hello: Taos, folder: Path) -> None:
    fake, name = hello.fake, await instance_of(hello)
    job = await failing(hello, lambda: hello.agents.start_upgrade("hello"))
    # The new root is gone, and the old one does not get its name back.
    refuse(fake, f"POST /1.0/instances/{name}-previous")
    hello.runner.cancel_job(job.id)
    await hindered(hello, job)
    assert set(fake.project().instances) == {f"{name}-previous"}
    with pytest.raises(Conflict, match="upgrade job is at work"):
        await hello.agents.start_power("hello", "stop")
    await done(hello, await hello.agents.start_delete("hello", keep_state=True))
    assert left_over(fake, folder) == {
        "instances": [], "volumes": [f"{name}-state"], "sockets": [],
    }  # fmt: skip
    [kept] = await hello.agents.list_kept()
    assert (kept.agent, kept.framework) == ("hello", "openclaw")


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_kept_state_outlives_the_delete_of_a_deploy_that_took_it(
    given_up: bool, hello: Taos
) -> None:
    fake = hello.fake
    await done(hello, await hello.agents.start_delete("hello", keep_state=True))
    spec = AgentSpec("second", state_of="hello")
    job = await failing(hello, lambda: hello.agents.start_deploy(spec))
    refuse(fake, "DELETE /1.0/instances/*")
    hello.runner.cancel_job(job.id)
    await hindered(hello, job)
    if given_up:
        await hello.runner.wait_job(job.id)
    deleting = await hello.agents.start_delete("second")
    allow(fake)
    await done(hello, deleting)
    [kept] = await hello.agents.list_kept()
    assert kept.agent == "hello", "what an agent knew is never removed by the way"


async def test_deleting_an_agent_that_is_being_made_names_the_job(
    taos: Taos, fake: FakeIncus
) -> None:
    with_image(fake)
    go = fake.hold_next("POST /1.0/instances")
    job = await taos.agents.start_deploy(AgentSpec("hello"))
    await taos.until(job.id, "create instance")
    assert fake.project().instances == {}
    assert [one.name for one in await taos.agents.list_agents()] == ["hello"]
    with pytest.raises(Conflict, match="deploy job is at work on agent 'hello'") as caught:
        await taos.agents.start_delete("hello")
    assert f"taos job watch {job.id}" in caught.value.hint
    go.set()
    await done(taos, job)
    with pytest.raises(NotFound):
        await taos.agents.start_delete("nobody")


async def test_an_agent_between_the_two_renames_is_not_called_absent(hello: Taos) -> None:
    name = await instance_of(hello)
    go = hello.fake.hold_next(f"POST /1.0/instances/{name}-next")
    job = await hello.agents.start_upgrade("hello")
    async with asyncio.timeout(10):
        while f"{name}-previous" not in hello.fake.project().instances:
            await asyncio.sleep(0.01)
    assert [one.name for one in await hello.agents.list_agents()] == ["hello"]
    for act in (hello.agents.start_delete, hello.agents.list_snapshots, hello.agents.start_undo):
        with pytest.raises(Conflict, match="upgrade job is at work"):
            await act("hello")
    go.set()
    await done(hello, job)


async def test_the_snapshot_that_an_undo_needs_is_not_dropped(hello: Taos) -> None:
    await upgraded(hello)
    [needed] = await hello.agents.list_snapshots("hello")
    with pytest.raises(Conflict, match="undone with the snapshot"):
        await hello.agents.start_drop("hello", needed.name)
    await done(hello, await hello.agents.start_undo("hello"))
    assert needed.name not in {s.name for s in await hello.agents.list_snapshots("hello")}


async def test_without_its_snapshot_an_upgrade_cannot_be_undone(hello: Taos) -> None:
    await upgraded(hello)
    name, [needed] = await instance_of(hello), await hello.agents.list_snapshots("hello")
    await hello.incus.storage.delete_volume_snapshot("taos", f"{name}-state", needed.name)
    stops = sum(f"PUT /1.0/instances/{name}/state" == call for call in hello.fake.calls)
    with pytest.raises(Conflict, match="state from before the upgrade is gone"):
        await hello.agents.start_undo("hello")
    assert stops == sum(f"PUT /1.0/instances/{name}/state" == call for call in hello.fake.calls)
    assert (await hello.agents.get_agent("hello")).state is AgentState.ready


async def test_an_old_root_that_does_not_answer_gives_way_to_the_new_one(hello: Taos) -> None:
    await upgraded(hello)
    before = await hello.agents.get_agent("hello")
    name = before.instance
    job = await failing(hello, lambda: hello.agents.start_undo("hello"))
    hello.fake.ready_after = 0
    ended = await hello.runner.wait_job(job.id)
    assert (ended.state, ended.error and ended.error.code) == (JobState.failed, "not_ready")
    after = await hello.agents.get_agent("hello")
    assert (after.version, after.undo_version, after.state) == (
        before.version, before.undo_version, AgentState.ready,
    )  # fmt: skip
    assert set(hello.fake.project().instances) == {name, f"{name}-previous"}
    volume = hello.fake.project().volumes["taos", f"{name}-state"]
    assert volume["written_by"][0] == "d"
    hello.fake.ready_after = 0
    await done(hello, await hello.runner.retry_job(job.id))
    assert volume["written_by"][0] == "c"


async def test_a_second_upgrade_takes_what_the_first_kept_to_return_to(hello: Taos) -> None:
    await upgraded(hello)
    [first] = await hello.agents.list_snapshots("hello")
    newer_image(hello, "e", "2099.1.2")
    await done(hello, await hello.agents.start_upgrade("hello"))
    [second] = await hello.agents.list_snapshots("hello")
    assert second.name != first.name
    await done(hello, await hello.agents.start_undo("hello"))
    assert (await hello.agents.get_agent("hello")).version == "2099.1.1"


async def test_an_old_root_that_does_not_say_since_when_is_kept_a_whole_window(
    hello: Taos,
) -> None:
    await upgraded(hello)
    previous = hello.fake.project().instances[f"{await instance_of(hello)}-previous"]
    for said in ("", "some day", "2026-01-01"):
        previous.json["config"]["user.taos.replaced_at"] = said
        await hello.agents.end_undo_windows()
        if said == "2026-01-01":
            [job] = hello.runner.list_active()
            assert job.kind == "end undo window"
        else:
            assert hello.runner.list_active() == ()
            assert previous.json["config"]["user.taos.replaced_at"] > "2026-02"
    await hello.idle()
    assert (await reconcile(hello.host)).roots == ()
