"""Leftovers that no job knows of are put right; what an agent knows is never removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.cases import newer_image
from tests.deploy.world import Taos, left_over, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.reconcile import Leftovers, reconcile
from tinyagentos.model.agent import AgentSpec, AgentState, Source
from tinyagentos.model.errors import Conflict


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


async def upgrading(folder: Path, fake: FakeIncus, until: Callable[[str], bool]) -> tuple[str, str]:
    """A server that died with its database in an upgrade; the agent's instance and the job's id."""
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    name = (await taos.agents.get_agent("hello")).instance
    newer_image(taos, "d", "2099.1.1")
    job = await taos.agents.start_upgrade("hello")
    async with asyncio.timeout(10):
        while not until(name):
            await asyncio.sleep(0)
    await taos.die()
    for file in folder.glob("taos.db*"):
        file.unlink()
    return name, job.id


@pytest.mark.parametrize("cut", ["marked", "between the renames", "renamed"])
async def test_an_agent_whose_upgrade_was_forgotten_is_the_agent_again(
    cut: str, folder: Path, fake: FakeIncus
) -> None:
    instances = fake.project().instances

    def is_cut(name: str) -> bool:
        if cut == "marked":
            return name in instances and "user.taos.role" in instances[name].json["config"]
        if cut == "between the renames":
            return name not in instances
        return f"{name}-previous" in instances and name in instances

    if cut == "between the renames":
        fake.hold_next("POST /1.0/instances/*-next")
    name, _ = await upgrading(folder, fake, is_cut)
    second = Taos(folder, fake).start()
    before = set(instances)
    left = await reconcile(second.host)
    await second.idle()
    await reconcile(second.host)
    await second.idle()
    agent = await second.agents.get_agent("hello")
    assert agent.instance == name
    assert agent.state in (AgentState.stopped, AgentState.ready)
    if cut == "renamed" and not left.lost:
        assert before - set(instances) == set()
    else:
        assert (left.lost, left.roots) == ((name,), ())
        assert set(instances) == {name}
        assert instances[name].json["config"]["volatile.base_image"][0] == "c"
    assert await reconcile(second.host) == Leftovers()
    await second.runner.wait_job((await second.agents.start_power("hello", "start")).id)
    assert (await second.agents.get_agent("hello")).state is AgentState.ready
    await second.close()


async def test_no_name_is_given_twice_while_a_root_of_it_is_left(
    folder: Path, fake: FakeIncus
) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    name = (await taos.agents.get_agent("hello")).instance
    newer_image(taos, "d", "2099.1.1")
    await taos.runner.wait_job((await taos.agents.start_upgrade("hello")).id)
    await taos.incus.instances.delete(name, force=True)
    with pytest.raises(Conflict, match="agent 'hello' already"):
        await taos.agents.start_deploy(AgentSpec("hello"))
    left = await reconcile(taos.host)
    assert (left.lost, left.states) == ((name,), ())
    await taos.idle()
    [agent] = await taos.agents.list_agents()
    assert (agent.name, agent.undo_version) == ("hello", "")
    await taos.close()


async def test_an_agent_without_its_doors_gets_them(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    shown = await instance(taos)
    for devices in (shown["devices"], shown["expanded_devices"]):
        del devices["agent"], devices["model"]
    left = await reconcile(taos.host)
    assert left.doorless == ((await taos.agents.get_agent("hello")).instance,)
    assert {"agent", "model"} <= shown["devices"].keys()
    assert await reconcile(taos.host) == Leftovers()
    await taos.close()


async def test_an_agent_without_its_state_says_so(
    folder: Path, fake: FakeIncus, caplog: pytest.LogCaptureFixture
) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    shown = await instance(taos)
    for devices in (shown["devices"], shown["expanded_devices"]):
        del devices["state"]
    left = await reconcile(taos.host)
    assert left.odd[0].startswith("The state of the agent 'hello' is not attached")
    assert left.states == ()
    assert left.odd[0] in caplog.text
    agent = await taos.agents.get_agent("hello")
    assert (agent.state, agent.reason) == (
        AgentState.failed, "what it knows is not attached to its instance",
    )  # fmt: skip
    await taos.close()


async def test_two_agents_of_one_name_are_left_to_a_person(
    folder: Path, fake: FakeIncus, caplog: pytest.LogCaptureFixture
) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    await taos.deploy("other")
    twin = (await taos.agents.get_agent("other")).instance
    fake.project().instances[twin].json["config"]["user.taos.agent"] = "hello"
    left = await reconcile(taos.host)
    assert (len(left.odd), left.roots, left.lost) == (1, (), ())
    assert "is several instances" in caplog.text
    listed = await taos.agents.list_agents()
    assert [one.name for one in listed] == ["hello", "hello"]
    for act in (taos.agents.start_delete, taos.agents.start_upgrade, taos.agents.list_snapshots):
        with pytest.raises(Conflict, match="several instances") as refused:
            await act("hello")
        assert {one.reason for one in listed} == {refused.value.message}
    assert len(fake.project().instances) == 2
    await taos.close()
