"""A retried job is the same request at another time: checked, and found out anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.cases import (
    CASES,
    Case,
    Channel,
    done,
    downloaded,
    exported,
    kept_one,
    newer_image,
    prepared,
    sum_up,
    undisturbed,
    upgraded,
)
from tests.deploy.world import IMAGE_PRINT, Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents import keep
from tinyagentos.agents.order import AGENT_KEY
from tinyagentos.agents.reconcile import reconcile
from tinyagentos.model.agent import AgentChange, AgentSpec, AgentState, ImportChoice
from tinyagentos.model.errors import Conflict, InvalidInput, NoSpace
from tinyagentos.model.image import ImagePolicy
from tinyagentos.model.job import Job, JobState


async def cancelled(taos: Taos, job: Job) -> Job:
    """The job, cancelled before its turn."""
    taos.runner.cancel_job(job.id)
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.cancelled
    return ended


# The fresh installation goes with the job that was to make an image of it.
ONCE = {keep.KEEP}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_each_kind_does_what_the_first_try_was_to_do(
    case: Case, folder: Path, fake: FakeIncus, channel: Channel
) -> None:
    taos = await prepared(case, folder, fake, channel)
    job = await cancelled(taos, await case.begin(taos))
    if case.kind in ONCE:
        with pytest.raises(Conflict, match="is gone"):
            await taos.runner.retry_job(job.id)
        await taos.close()
        return
    again = await taos.runner.retry_job(job.id)
    assert (again.kind, again.subject) == (job.kind, job.subject)
    await done(taos, again)
    await taos.idle()
    assert await sum_up(taos) == await undisturbed(case, channel)
    await taos.close()


@pytest.fixture
async def hello(taos: Taos, fake: FakeIncus) -> Taos:
    """A server with one agent."""
    with_image(fake)
    await taos.deploy("hello")
    return taos


async def instance_of(taos: Taos, name: str = "hello") -> str:
    return (await taos.agents.get_agent(name)).instance


async def test_a_deploy_whose_name_was_taken_meanwhile(taos: Taos, fake: FakeIncus) -> None:
    with_image(fake)
    fake.fail_next("POST /1.0/instances", 500, "no such luck", in_work=True)
    failed = await taos.deploy("a")
    assert failed.state is JobState.failed
    assert (await taos.deploy("a")).state is JobState.succeeded
    with pytest.raises(Conflict, match="There is an agent 'a' already"):
        await taos.runner.retry_job(failed.id)
    found = fake.project().instances.values()
    assert [one.json["config"][AGENT_KEY] for one in found] == ["a"]


async def test_a_deploy_that_there_is_no_room_for_any_more(taos: Taos, fake: FakeIncus) -> None:
    with_image(fake)
    job = await cancelled(taos, await taos.agents.start_deploy(AgentSpec("a", cpus=2)))
    space = fake.pools["taos"]["resources"]["space"]
    space["used"] = space["total"]
    with pytest.raises(NoSpace):
        await taos.runner.retry_job(job.id)
    space["used"] = 0
    again = await taos.runner.retry_job(job.id)
    assert again.params["cpus"] == "2"
    assert again.params["instance"] != job.params["instance"]
    await done(taos, again)


@pytest.mark.parametrize("action", ["start", "stop", "restart"])
async def test_power_knows_how_the_agent_is_now(action: str, hello: Taos) -> None:
    job = await cancelled(hello, await hello.agents.start_power("hello", action))  # type: ignore[arg-type]
    assert job.params["was_running"] == "True"
    await done(hello, await hello.agents.start_power("hello", "stop"))
    again = await hello.runner.retry_job(job.id)
    assert again.params["was_running"] == "False"
    await done(hello, again)


async def test_a_network_and_a_change_return_to_what_was_there_last(hello: Taos) -> None:
    agents = hello.agents
    network = await cancelled(hello, await agents.start_network("hello", "none"))
    change = await cancelled(hello, await agents.start_change("hello", AgentChange(title="A")))
    await done(hello, await agents.start_network("hello", "lan:10.1.0.0/16"))
    await done(hello, await agents.start_change("hello", AgentChange(title="B")))
    again = await hello.runner.retry_job(network.id)
    assert (again.params["previous"], again.params["policy"]) == ("lan:10.1.0.0/16", "none")
    hello.runner.cancel_job(again.id)
    await hello.runner.wait_job(again.id)
    again = await hello.runner.retry_job(change.id)
    assert '"B"' in again.params["before"]
    hello.runner.cancel_job(again.id)
    await hello.runner.wait_job(again.id)
    agent = await agents.get_agent("hello")
    assert (agent.network, agent.title) == ("lan:10.1.0.0/16", "B")


async def test_a_change_that_would_be_less_than_the_agent_takes_now(hello: Taos) -> None:
    change = AgentChange(memory_bytes=64 << 20)
    job = await cancelled(hello, await hello.agents.start_change("hello", change))
    again = await hello.runner.retry_job(job.id)
    assert again.params["change"] == job.params["change"]
    await done(hello, again)


async def test_what_was_about_an_agent_is_not_done_to_the_next_of_that_name(hello: Taos) -> None:
    agents = hello.agents
    await kept_one(hello)
    begun = [
        await agents.start_power("hello", "stop"),
    ]
    for job in begun:
        await cancelled(hello, job)
    for begin in (
        lambda: agents.start_network("hello", "none"),
        lambda: agents.start_change("hello", AgentChange(cpus=2)),
        lambda: agents.start_snapshot("hello", "two"),
        lambda: agents.start_restore("hello", "one"),
        lambda: agents.start_drop("hello", "one"),
        lambda: agents.start_export_agent("hello", hello.folder / "x.taos"),
        lambda: agents.start_delete("hello"),
    ):
        begun.append(await cancelled(hello, await begin()))
    await done(hello, await agents.start_delete("hello"))
    for job in begun:
        with pytest.raises(Conflict, match="no agent 'hello'"):
            await hello.runner.retry_job(job.id)
    await hello.deploy("hello")
    await kept_one(hello)
    for job in begun:
        with pytest.raises(Conflict, match="there is another one now"):
            await hello.runner.retry_job(job.id)
    assert (await agents.get_agent("hello")).state is AgentState.ready


async def test_an_upgrade_to_what_the_agent_has_by_now(hello: Taos) -> None:
    newer_image(hello, "d", "2099.1.1")
    job = await cancelled(hello, await hello.agents.start_upgrade("hello"))
    await upgraded(hello)
    with pytest.raises(Conflict, match="newest"):
        await hello.runner.retry_job(job.id)
    newer_image(hello, "e", "2099.1.2")
    assert (await hello.runner.retry_job(job.id)).params["version"] == "2099.1.2"
    await hello.idle()


async def test_an_undo_of_another_upgrade(hello: Taos) -> None:
    await upgraded(hello)
    job = await cancelled(hello, await hello.agents.start_undo("hello"))
    newer_image(hello, "e", "2099.1.2")
    await done(hello, await hello.agents.start_upgrade("hello"))
    again = await hello.runner.retry_job(job.id)
    assert again.params["snapshot"] != job.params["snapshot"]
    await done(hello, again)
    assert (await hello.agents.get_agent("hello")).version == "2099.1.1"
    with pytest.raises(Conflict, match="no upgrade"):
        await hello.runner.retry_job(job.id)


async def test_snapshots_that_came_and_went(hello: Taos) -> None:
    agents = hello.agents
    snapshot = await cancelled(hello, await agents.start_snapshot("hello", "one"))
    await kept_one(hello)
    restore = await cancelled(hello, await agents.start_restore("hello", "one"))
    drop = await cancelled(hello, await agents.start_drop("hello", "one"))
    with pytest.raises(Conflict, match="snapshot 'one' of 'hello' already"):
        await hello.runner.retry_job(snapshot.id)
    await done(hello, await hello.runner.retry_job(drop.id))
    for job in (restore, drop):
        with pytest.raises(Conflict, match="has no snapshot 'one'"):
            await hello.runner.retry_job(job.id)


async def test_an_undo_window_that_another_upgrade_began_again(hello: Taos) -> None:
    await upgraded(hello)
    previous = hello.fake.project().instances[f"{await instance_of(hello)}-previous"]
    previous.json["config"]["user.taos.replaced_at"] = "2026-01-01T00:00:00+00:00"
    await hello.agents.end_undo_windows()
    [job] = hello.runner.list_active()
    await cancelled(hello, job)
    newer_image(hello, "e", "2099.1.2")
    await done(hello, await hello.agents.start_upgrade("hello"))
    with pytest.raises(Conflict, match="no old root whose time is over"):
        await hello.runner.retry_job(job.id)


async def test_files_that_were_written_or_removed_meanwhile(hello: Taos) -> None:
    to = hello.folder / "x.taos"
    job = await cancelled(hello, await hello.agents.start_export_agent("hello", to))
    to.touch()
    with pytest.raises(Conflict, match="is there already"):
        await hello.runner.retry_job(job.id)
    await exported(hello)
    file = hello.folder / "hello.taos"
    taken = await cancelled(hello, (await hello.agents.start_import_agent(file, ImportChoice()))[0])
    again = await hello.runner.retry_job(taken.id)
    assert again.params == taken.params, "a deploy was told of that state"
    await done(hello, again)
    with pytest.raises(Conflict, match="There is a state"):
        await hello.runner.retry_job(taken.id)
    file.unlink()
    with pytest.raises(InvalidInput, match="There is no file"):
        await hello.runner.retry_job(taken.id)


async def test_a_leftover_whose_name_is_in_use_again(hello: Taos) -> None:
    name = await instance_of(hello)
    await hello.incus.storage.copy_volume("taos", f"{name}-export-ab12", f"{name}-state")
    await reconcile(hello.host)
    [job] = hello.runner.list_active()
    await cancelled(hello, job)
    await hello.incus.storage.delete_volume("taos", f"{name}-export-ab12")
    with pytest.raises(Conflict, match="left over no more"):
        await hello.runner.retry_job(job.id)


async def test_a_delete_that_failed_half_way_is_ended_by_its_retry(hello: Taos) -> None:
    fake = hello.fake
    fake.fail_next("DELETE /1.0/storage-pools/*", 500, "not now")
    job = await hello.agents.start_delete("hello")
    ended = await hello.runner.wait_job(job.id)
    assert (ended.state, fake.project().instances) == (JobState.failed, {})
    assert len(fake.project().volumes) == 1
    await done(hello, await hello.runner.retry_job(job.id))
    assert fake.project().volumes == {}


async def test_a_download_that_is_not_wanted_any_more(
    folder: Path, fake: FakeIncus, channel: Channel
) -> None:
    taos = Taos(folder, fake, **channel).start()
    job = await cancelled(taos, taos.images.start_download("openclaw"))
    taos.images.choose_policy(ImagePolicy.off)
    with pytest.raises(Conflict, match="policy is off"):
        await taos.runner.retry_job(job.id)
    taos.images.choose_policy(ImagePolicy.manual)
    await downloaded(taos)
    to = folder / "image.taos"
    export = await cancelled(taos, taos.images.start_export("openclaw", to))
    to.touch()
    with pytest.raises(Conflict, match="is there already"):
        await taos.runner.retry_job(export.id)
    to.unlink()
    await done(taos, await taos.runner.retry_job(export.id))
    taken = await cancelled(taos, taos.images.start_import(to))
    to.write_bytes(b"something else")
    with pytest.raises(InvalidInput):
        await taos.runner.retry_job(taken.id)
    assert IMAGE_PRINT not in fake.project().images
    await taos.close()
