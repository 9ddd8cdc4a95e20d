"""Every kind of job as it is met: what there is before it, and how it is begun.

Tests that disturb jobs in each of their steps go through this table (test_crash.py, test_cancel.py,
test_incus_restarts.py, test_retry.py), so a kind of job that is not in it fails a test.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.test_download import Released
from tests.deploy.world import ARCH, BASE_PRINT, IMAGE_PRINT, Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents import (
    bundle,
    keep,
    lifecycle,
    network,
    reconcile,
    requests,
    settings,
    snapshots,
    upgrade,
)
from tinyagentos.agents.order import AGENT_KEY
from tinyagentos.agents.reconcile import reconcile as put_right
from tinyagentos.agents.roles import (
    NEXT,
    REPLACED_KEY,
    ROLE_KEY,
    SINCE_KEY,
    SNAPSHOT_KEY,
    previous_name,
)
from tinyagentos.agents.steps import BUILD_STEPS, CONNECT, DEPLOY, IMAGE_STEPS, READY, WAIT_STEPS
from tinyagentos.agents.upgrade_all import step_of
from tinyagentos.images import bundle as image_bundle
from tinyagentos.images import download, weigh
from tinyagentos.incus import InstanceRequest
from tinyagentos.model.agent import (
    AgentChange,
    AgentSpec,
    AgentState,
    ImportChoice,
    SnapshotSchedule,
    Source,
)
from tinyagentos.model.job import Job, JobState

POWER = (lifecycle.START, CONNECT, READY)
LONG_AGO = "2026-01-01T00:00:00+00:00"
Channel = dict[str, object]
Prepare = Callable[[Taos], Awaitable[None]]
Begin = Callable[[Taos], Awaitable[Job]]


@dataclass(frozen=True)
class Case:
    """A job: its kind, what is made ready for it, how it is begun and the steps it then takes.

    stays: the parts of sum_up() in which a cancel leaves, on purpose, more than there was.
    """

    name: str
    kind: str
    begin: Begin
    steps: tuple[str, ...]
    prepare: Prepare | None = None
    stays: frozenset[str] = frozenset()


async def done(taos: Taos, job: Job) -> Job:
    """The job when it has ended; all that a test prepares has to succeed."""
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    return ended


def channel_of(folder: Path) -> Channel:
    """Settings of a server whose channel of images is a folder."""
    released = Released(folder, more_bytes=200_000)
    for name, content in released.files.items():
        (folder / name).write_bytes(content)
    return {"image_channel": str(folder), "image_root": released.root, "image_policy": "manual"}


def begin_world(folder: Path, fake: FakeIncus, channel: Channel) -> Taos:
    """A server on the folder and the fake."""
    return Taos(folder, fake, **channel).start()


async def prepared(case: Case, folder: Path, fake: FakeIncus, channel: Channel) -> Taos:
    """A server with all that the case's job needs."""
    taos = begin_world(folder, fake, channel)
    await make_world(taos)
    if case.prepare:
        await case.prepare(taos)
    return taos


_undisturbed: dict[str, dict[str, object]] = {}


async def undisturbed(case: Case, channel: Channel) -> dict[str, object]:
    """The world after the case's job, when nothing comes in its way."""
    if case.name not in _undisturbed:
        with tempfile.TemporaryDirectory(prefix="taos-", ignore_cleanup_errors=True) as name:
            async with FakeIncus(Path(name) / "incus.sock") as fake:
                taos = await prepared(case, Path(name), fake, channel)
                ended = await done(taos, await case.begin(taos))
                assert {one.name for one in ended.steps} == set(case.steps)
                await taos.idle()
                await assert_whole(taos)
                _undisturbed[case.name] = await sum_up(taos)
                await taos.close()
    return _undisturbed[case.name]


async def assert_whole(taos: Taos) -> None:
    """Nothing is there but what the agents that are listed need, and states that are kept."""
    project = taos.fake.project()
    agents = await taos.agents.list_agents()
    kept = {one.name for one in await taos.agents.list_kept()}
    old = {previous_name(one.instance) for one in agents if one.undo_version}
    assert set(project.instances) == old | {one.instance for one in agents}
    volumes = {name for _, name in project.volumes}
    assert volumes == kept | {f"{one.instance}-state" for one in agents}
    assert {one.state for one in agents} <= {AgentState.ready, AgentState.stopped}


async def hello(taos: Taos) -> str:
    """The instance of the agent that is there in every case."""
    return (await taos.agents.get_agent("hello")).instance


async def make_world(taos: Taos) -> None:
    """The agent hello, which there is something newer for."""
    with_image(taos.fake)
    taos.fake.add_image("taos", BASE_PRINT, f"debian-13/{ARCH}")
    await taos.deploy("hello")
    config = taos.fake.project().instances[await hello(taos)].json["config"]
    config["user.taos.version"] = "0"


async def stopped(taos: Taos) -> None:
    await done(taos, await taos.agents.start_power("hello", "stop"))


def newer_image(taos: Taos, first: str, version: str) -> None:
    """The image that the framework's alias stands for is of that version from now on."""
    taos.fake.add_image(
        "taos", first * 64, f"openclaw/{ARCH}", properties={"taos.version": version}
    )


async def offered(taos: Taos) -> None:
    newer_image(taos, "d", "2099.1.1")


async def stopped_and_offered(taos: Taos) -> None:
    await stopped(taos)
    await offered(taos)


async def upgraded(taos: Taos) -> None:
    await offered(taos)
    await done(taos, await taos.agents.start_upgrade("hello"))


async def stopped_and_upgraded(taos: Taos) -> None:
    await stopped(taos)
    await upgraded(taos)


async def upgraded_and_offered(taos: Taos) -> None:
    await upgraded(taos)
    newer_image(taos, "e", "2099.1.2")


async def kept_one(taos: Taos) -> None:
    await done(taos, await taos.agents.start_snapshot("hello", "one"))


async def exported(taos: Taos) -> None:
    file = taos.folder / "hello.taos"
    await done(taos, await taos.agents.start_export_agent("hello", file))


async def no_image(taos: Taos) -> None:
    """The image is gone; agents made of it stay."""
    del taos.fake.project().aliases[f"openclaw/{ARCH}"]
    del taos.fake.project().images[IMAGE_PRINT]


async def downloaded(taos: Taos) -> None:
    await done(taos, taos.images.start_download("openclaw"))


async def time_passed(taos: Taos) -> None:
    """An upgrade whose undo window is over."""
    await upgraded(taos)
    previous = taos.fake.project().instances[f"{await hello(taos)}-previous"]
    previous.json["config"][SINCE_KEY] = LONG_AGO


async def copy_left(taos: Taos) -> None:
    name = await hello(taos)
    await taos.incus.storage.copy_volume("taos", f"{name}-export-ab12", f"{name}-state")


async def root_left(taos: Taos) -> None:
    config = {AGENT_KEY: "hello", ROLE_KEY: NEXT}
    request = InstanceRequest(f"{await hello(taos)}-next", image=IMAGE_PRINT, config=config)
    await taos.incus.instances.create(request)


async def agent_lost(taos: Taos) -> None:
    """Somebody removed the upgraded agent, and not the root it had before."""
    await upgraded(taos)
    await taos.incus.instances.delete(await hello(taos), force=True)


async def the_only_job(taos: Taos) -> Job:
    [job] = taos.runner.list_active()
    return job


async def built(taos: Taos) -> None:
    """An agent that was built here, and no image was made of it yet."""
    await done(taos, await taos.agents.start_deploy(AgentSpec("new", source=Source.build)))
    await taos.idle()
    name = (await taos.agents.get_agent("new")).instance
    await taos.incus.instances.create_snapshot(name, keep.SNAPSHOT)
    await no_image(taos)


async def keep_image(taos: Taos) -> Job:
    keep.submit_keep("openclaw", (await taos.agents.get_agent("new")).instance, taos.host)
    return await the_only_job(taos)


async def tidy_up(taos: Taos) -> Job:
    await put_right(taos.host)
    return await the_only_job(taos)


async def end_window(taos: Taos) -> Job:
    await taos.agents.end_undo_windows()
    return await the_only_job(taos)


async def weigh_it(taos: Taos) -> Job:
    return taos.images.start_weighing(taos.fake.project().aliases[f"openclaw/{ARCH}"])


async def import_it(taos: Taos) -> Job:
    return (await taos.agents.start_import_agent(taos.folder / "hello.taos", ImportChoice()))[0]


def deploy_by(source: Source) -> Begin:
    return lambda taos: taos.agents.start_deploy(AgentSpec("new", source=source))


CASES = (
    Case("deploy by image", DEPLOY, deploy_by(Source.image), IMAGE_STEPS),
    Case("deploy by build", DEPLOY, deploy_by(Source.build), BUILD_STEPS),
    Case(
        "deploy by download", DEPLOY, deploy_by(Source.image), WAIT_STEPS, no_image,
        stays=frozenset({"images", "aliases"}),  # the download is a job of its own
    ),
    Case(
        "keep image", keep.KEEP, keep_image, keep.STEPS, built,
        # The snapshot goes either way, and an image that is made already can be used.
        stays=frozenset({"instances", "images", "aliases"}),
    ),
    Case(
        "start", requests.START, lambda taos: taos.agents.start_power("hello", "start"),
        POWER, stopped,
    ),
    Case(
        "stop", requests.STOP, lambda taos: taos.agents.start_power("hello", "stop"),
        (lifecycle.STOP,),
    ),
    Case(
        "restart", requests.RESTART, lambda taos: taos.agents.start_power("hello", "restart"),
        (lifecycle.STOP, *POWER),
    ),
    Case(
        "delete", requests.DELETE, lambda taos: taos.agents.start_delete("hello"),
        (lifecycle.REMOVE,), upgraded,
    ),
    Case(
        "delete, state kept", requests.DELETE,
        lambda taos: taos.agents.start_delete("hello", keep_state=True), (lifecycle.REMOVE,),
    ),
    Case(
        "upgrade", upgrade.UPGRADE, lambda taos: taos.agents.start_upgrade("hello"),
        upgrade.IMAGE_STEPS, offered,
    ),
    Case(
        "upgrade by build", upgrade.UPGRADE, lambda taos: taos.agents.start_upgrade("hello"),
        upgrade.STEPS,
    ),
    Case(
        "upgrade of a stopped one", upgrade.UPGRADE,
        lambda taos: taos.agents.start_upgrade("hello"), upgrade.IMAGE_STEPS, stopped_and_offered,
    ),
    Case(
        "upgrade within the window", upgrade.UPGRADE,
        lambda taos: taos.agents.start_upgrade("hello"), upgrade.IMAGE_STEPS, upgraded_and_offered,
        # The root from before the first upgrade goes when the roots are exchanged.
        stays=frozenset({"agents", "instances", "volumes"}),
    ),
    Case(
        "upgrade all", requests.UPGRADE_ALL, lambda taos: taos.agents.start_upgrade_all(),
        (step_of("hello"),), offered,
    ),
    Case(
        "undo upgrade", upgrade.UNDO, lambda taos: taos.agents.start_undo("hello"),
        upgrade.UNDO_STEPS, upgraded,
    ),
    Case(
        "undo upgrade of a stopped one", upgrade.UNDO,
        lambda taos: taos.agents.start_undo("hello"),
        tuple(one for one in upgrade.UNDO_STEPS if one not in (upgrade.START, READY)),
        stopped_and_upgraded,
    ),
    Case("end undo window", upgrade.FORGET, end_window, (upgrade.TIDY,), time_passed),
    Case(
        "snapshot", snapshots.SNAPSHOT, lambda taos: taos.agents.start_snapshot("hello", "one"),
        (snapshots.KEEP,),
    ),
    Case(
        "restore", snapshots.RESTORE, lambda taos: taos.agents.start_restore("hello", "one"),
        snapshots.RESTORE_STEPS, kept_one,
    ),
    Case(
        "delete snapshot", snapshots.DROP, lambda taos: taos.agents.start_drop("hello", "one"),
        (snapshots.REMOVE,), kept_one,
    ),
    Case(
        "network", network.NETWORK, lambda taos: taos.agents.start_network("hello", "none"),
        network.STEPS,
    ),
    Case(
        "settings", settings.CHANGE,
        lambda taos: taos.agents.start_change(
            "hello", AgentChange(cpus=2, title="Hi", snapshots=SnapshotSchedule.daily)
        ),
        (settings.APPLY,),
    ),
    Case(
        "export", bundle.EXPORT,
        lambda taos: taos.agents.start_export_agent("hello", taos.folder / "x.taos"),
        bundle.EXPORT_STEPS,
    ),
    Case("import", bundle.IMPORT, import_it, bundle.IMPORT_STEPS, exported),
    Case("leftover copy", reconcile.LEFTOVER, tidy_up, (reconcile.REMOVE,), copy_left),
    Case("leftover root", reconcile.LEFTOVER, tidy_up, (reconcile.REMOVE,), root_left),
    Case("bring agent back", reconcile.RETURN, tidy_up, (reconcile.RENAME,), agent_lost),
    Case(
        "download", download.DOWNLOAD, lambda taos: at_once(taos.images.start_download("openclaw")),
        download.STEPS,
        stays=frozenset({"files"}),  # what has come is kept, and proven again when it is used
    ),
    Case(
        "export image", image_bundle.EXPORT,
        lambda taos: at_once(taos.images.start_export("openclaw", taos.folder / "image.taos")),
        image_bundle.STEPS, downloaded,
    ),
    Case("weigh image", weigh.WEIGH, weigh_it, weigh.STEPS, downloaded),
)  # fmt: skip


STEPS = [(case, step) for case in CASES for step in case.steps]
in_each_step = pytest.mark.parametrize(
    ("case", "step"), STEPS, ids=[f"{case.name}, {step}" for case, step in STEPS]
)


async def at_once(job: Job) -> Job:
    return job


SHAPES = (
    (re.compile(r"-[0-9a-f]{6}(?=$|-|\.)"), ""),
    (re.compile(r"(before|undone|export)-[0-9a-z]+"), r"\1-JOB"),
)


def shape(name: str) -> str:
    """The name without what is different each time."""
    for pattern, instead in SHAPES:
        name = pattern.sub(instead, name)
    return name


async def sum_up(taos: Taos) -> dict[str, object]:
    """All that jobs make, change and remove, so that two worlds can be compared."""
    project = taos.fake.project()
    await taos.agents.list_agents()  # an agent of a disturbed world answers the second time
    agents = await taos.agents.list_agents()
    marks = (ROLE_KEY, REPLACED_KEY, SNAPSHOT_KEY, SINCE_KEY)
    return {
        "agents": [
            (a.name, a.state, a.version, a.undo_version, a.network, a.cpus, a.title, a.autostart)
            for a in agents
        ],
        "schedules": [
            await taos.agents.get_schedule(a.name)
            for a in agents
            if a.state is not AgentState.deploying
        ],
        "instances": {
            shape(name): (
                one.running,
                str(one.json["config"]["volatile.base_image"])[0],
                [bool(one.json["config"].get(mark)) for mark in marks],
                sorted(one.snapshots),
                sorted(one.json["devices"]),
            )
            for name, one in project.instances.items()
        },
        "volumes": {
            shape(name): (
                str(volume.get("written_by", ""))[:1],
                "user.taos.kept" in volume["config"],
                sorted(map(shape, project.volume_snapshots.get((pool, name), {}))),
            )
            for (pool, name), volume in project.volumes.items()
        },
        "sockets": sorted(
            shape(one.name)
            for one in (taos.folder / "agents").iterdir()
            # Incus makes it anew when the instance starts.
            if one.stem not in project.instances or project.instances[one.stem].running
        ),
        "images": sorted((*one["properties"].values(),) for one in project.images.values()),
        "aliases": sorted(project.aliases),
        "files": sorted(
            one.name
            for pattern in ("*.taos", ".*.part", "cache/images/*", "cache/weights/*")
            for one in taos.folder.glob(pattern)
            if not one.name.startswith(("a" * 12,))
        ),
    }
