"""Incus goes away and comes back in every step of every kind of job: nothing is left or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents import bundle, lifecycle, network, settings, snapshots, upgrade
from tinyagentos.agents.roles import previous_name
from tinyagentos.agents.steps import BUILD_STEPS, CONNECT, DEPLOY, IMAGE_STEPS, READY
from tinyagentos.model.agent import AgentChange, AgentSpec, AgentState, Source
from tinyagentos.model.job import Job, JobState

Begin = Callable[[Taos], Awaitable[Job]]
AWAY = 0.05


async def import_state(taos: Taos) -> Job:
    file = taos.folder / "hello.taos"
    job = await taos.agents.start_export_agent("hello", file)
    await taos.runner.wait_job(job.id)
    return (await taos.agents.start_import_agent(file))[0]


async def undo(taos: Taos) -> Job:
    await taos.runner.wait_job((await taos.agents.start_upgrade("hello")).id)
    return await taos.agents.start_undo("hello")


async def with_snapshot(taos: Taos, begin: Begin) -> Job:
    await taos.runner.wait_job((await taos.agents.start_snapshot("hello", "one")).id)
    return await begin(taos)


POWER = (lifecycle.START, CONNECT, READY)
KINDS: Mapping[str, tuple[Begin, tuple[str, ...]]] = {
    "deploy by image": (
        lambda taos: taos.agents.start_deploy(AgentSpec("new", source=Source.image)), IMAGE_STEPS,
    ),
    "deploy by build": (
        lambda taos: taos.agents.start_deploy(AgentSpec("new", source=Source.build)), BUILD_STEPS,
    ),
    "start": (lambda taos: taos.agents.start_power("hello", "start"), POWER),
    "stop": (lambda taos: taos.agents.start_power("hello", "stop"), (lifecycle.STOP,)),
    "restart": (
        lambda taos: taos.agents.start_power("hello", "restart"), (lifecycle.STOP, *POWER),
    ),
    "delete": (lambda taos: taos.agents.start_delete("hello"), (lifecycle.REMOVE,)),
    "delete, state kept": (
        lambda taos: taos.agents.start_delete("hello", keep_state=True), (lifecycle.REMOVE,),
    ),
    "upgrade": (lambda taos: taos.agents.start_upgrade("hello"), upgrade.IMAGE_STEPS),
    "undo upgrade": (undo, upgrade.UNDO_STEPS),
    "snapshot": (lambda taos: taos.agents.start_snapshot("hello", "one"), (snapshots.KEEP,)),
    "restore": (
        lambda taos: with_snapshot(taos, lambda taos: taos.agents.start_restore("hello", "one")),
        snapshots.RESTORE_STEPS,
    ),
    "drop snapshot": (
        lambda taos: with_snapshot(taos, lambda taos: taos.agents.start_drop("hello", "one")),
        (snapshots.REMOVE,),
    ),
    "network": (lambda taos: taos.agents.start_network("hello", "none"), network.STEPS),
    "settings": (
        lambda taos: taos.agents.start_change("hello", AgentChange(cpus=2)), (settings.APPLY,),
    ),
    "export": (
        lambda taos: taos.agents.start_export_agent("hello", taos.folder / "x.taos"),
        bundle.EXPORT_STEPS,
    ),
    "import": (import_state, bundle.IMPORT_STEPS),
}  # fmt: skip
CASES = [(kind, step) for kind, (_, steps) in KINDS.items() for step in steps]


@pytest.mark.parametrize(("kind", "step"), CASES, ids=[f"{kind}, {step}" for kind, step in CASES])
async def test_incus_restarts(kind: str, step: str, folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    agent = await taos.agents.get_agent("hello")
    fake.project().instances[agent.instance].json["config"]["user.taos.version"] = "0"
    begin, _ = KINDS[kind]
    job = await begin(taos)
    await taos.until(job.id, step)
    await fake.stop()
    await asyncio.sleep(AWAY)
    await fake.start()
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    await taos.idle()
    await assert_whole(taos, fake, kind)
    await taos.close()


async def assert_whole(taos: Taos, fake: FakeIncus, kind: str) -> None:
    """Nothing but what the agents that are listed need, and what was asked for."""
    agents = {one.name: one for one in await taos.agents.list_agents()}
    expected = {"hello"} - ({"hello"} if kind.startswith("delete") else set())
    expected |= {"new"} if kind.startswith(DEPLOY) else set()
    assert set(agents) == expected
    stopped = kind == "stop"
    assert {one.state for one in agents.values()} <= {
        AgentState.stopped if stopped else AgentState.ready
    }
    kept = {one.name for one in await taos.agents.list_kept()}
    assert len(kept) == (kind in ("import", "delete, state kept"))
    project = fake.project()
    # An upgrade keeps the old root to return to.
    old = {previous_name(one.instance) for one in agents.values() if kind == "upgrade"}
    assert set(project.instances) == old | {one.instance for one in agents.values()}
    volumes = {name for _, name in project.volumes}
    assert volumes == kept | {f"{one.instance}-state" for one in agents.values()}
