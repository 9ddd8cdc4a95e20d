"""Leftovers that no job knows of are put right; what an agent knows is never removed."""

from __future__ import annotations

from pathlib import Path

from tests.deploy.world import Taos, left_over, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.reconcile import Leftovers, reconcile
from tinyagentos.model.agent import AgentSpec, AgentState, Source


async def test_nothing_is_touched_that_is_in_use(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    (await instance(taos))["config"]["user.taos.version"] = "0"
    await taos.runner.wait_job((await taos.agents.start_upgrade("hello")).id)
    await taos.deploy("old")
    job = await taos.agents.start_delete("old", keep_state=True)
    await taos.runner.wait_job(job.id)
    before = left_over(fake, folder)
    assert await reconcile(taos.host) == Leftovers()
    assert left_over(fake, folder) == before
    await taos.close()


async def instance(taos: Taos) -> dict[str, dict[str, str]]:
    agent = await taos.agents.get_agent("hello")
    return taos.fake.project().instances[agent.instance].json


async def test_nothing_of_a_job_at_work_is_touched(folder: Path, fake: FakeIncus) -> None:
    taos = Taos(folder, fake).start()
    taos.builder.go_on.clear()
    job = await taos.agents.start_deploy(AgentSpec("hello", source=Source.build))
    await taos.until(job.id, "install framework")
    assert await reconcile(taos.host) == Leftovers()
    taos.builder.go_on.set()
    await taos.runner.wait_job(job.id)
    await taos.idle()
    assert await reconcile(taos.host) == Leftovers()
    await taos.close()


async def test_a_state_whose_agent_was_removed_by_hand_is_kept(
    folder: Path, fake: FakeIncus
) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    name = (await taos.agents.get_agent("hello")).instance
    await taos.incus.instances.delete(name, force=True)
    taos.host.socket(name).touch()
    left = await reconcile(taos.host)
    assert [one.name for one in left.states] == [f"{name}-state"]
    [kept] = await taos.agents.list_kept()
    assert (kept.agent, kept.framework) == ("hello", "openclaw")
    assert left_over(fake, folder)["sockets"] == []
    assert await reconcile(taos.host) == Leftovers()
    deployed = await taos.deploy("again", state_of="hello")
    assert deployed.state == "succeeded", deployed.error
    assert (await taos.agents.get_agent("again")).state is AgentState.ready
    await taos.close()


async def test_what_a_lost_database_forgot_is_removed_by_jobs(
    folder: Path, fake: FakeIncus
) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    name = (await taos.agents.get_agent("hello")).instance
    (await instance(taos))["config"]["user.taos.version"] = "0"
    upgrading = await taos.agents.start_upgrade("hello")
    await taos.until(upgrading.id, "stop agent")
    await taos.die()
    for file in folder.glob("taos.db*"):
        file.unlink()
    second = Taos(folder, fake).start()
    await second.incus.storage.copy_volume("taos", f"{name}-export-ab12", f"{name}-state")
    left = await reconcile(second.host)
    assert (left.roots, left.copies) == ((f"{name}-next",), (f"{name}-export-ab12",))
    await second.idle()
    assert {job.kind for job in second.runner.list_jobs()} == {"remove leftover"}
    assert left_over(fake, folder)["volumes"] == [f"{name}-state"]
    assert left_over(fake, folder)["instances"] == [name]
    assert await reconcile(second.host) == Leftovers()
    await second.close()
