"""The smoke test of an image, on the fake Incus: what it does, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.fakes.fake_incus import FakeIncus
from tests.fakes.fake_parts import FakeExec
from tests.unit.factory.images import METADATA, Member, write_image
from tinyagentos.agents.smoke import FOLDER_KEY, remove_leftovers, smoke_image
from tinyagentos.config import Settings
from tinyagentos.factory.isolation import build_folder
from tinyagentos.incus import Incus
from tinyagentos.model.errors import HostNotReady, InvalidInput
from tinyagentos.model.smoke import Check, CheckState

MODULES = "/opt/openclaw/node_modules"
SOUND = (
    Member("/etc/machine-id"),
    Member(f"{MODULES}/@koromix/koffi-linux-x64/linux_x64/koffi.node"),
    Member(f"{MODULES}/@lydell/node-pty-linux-x64/pty.node"),
    Member(f"{MODULES}/@openclaw/fs-safe-linux-x64-gnu/fs-safe.node"),
)
Smoke = Callable[..., Awaitable[dict[str, Check]]]


def agent(
    fake: FakeIncus, *, remembers: bool = True
) -> Callable[[web.Request, str], Awaitable[web.Response]]:
    """An agent that is ready, and passes a question on to where its model door leads."""
    talked: list[object] = []

    async def answer(request: web.Request, instance: str) -> web.Response:
        if request.path == "/readyz":
            return web.Response(text="ready")
        [project] = [one for one in fake.projects.values() if instance in one.instances]
        made = project.instances[instance]
        env = made.files["/etc/taos/agent.env"].content.decode()
        tokens = dict(line.split("=", 1) for line in env.splitlines())
        if request.headers["Authorization"] != f"Bearer {tokens['TAOS_AGENT_TOKEN']}":
            return web.Response(status=401)
        [door] = [
            one
            for one in made.json["devices"].values()
            if one.get("listen") == "tcp:127.0.0.1:4000"
        ]
        talked.extend((await request.json())["messages"])
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(door["connect"].removeprefix("unix:"))
            ) as session,
            session.post(
                "http://model/v1/chat/completions",
                json={"stream": True, "messages": talked if remembers else talked[-1:]},
                headers={"Authorization": f"Bearer {tokens['TAOS_MODEL_TOKEN']}"},
            ) as said,
        ):
            return web.Response(text=await said.text())

    return answer


async def programs(run: FakeExec) -> int:
    """Every program works; the agent's processes are user 1000's."""
    if "cgroup" in " ".join(run.argv):
        await run.write(b"1000\n1000\n")
    return 0


@pytest.fixture
async def smoke(folder: Path, fake: FakeIncus) -> Smoke:
    fake.on_exec, fake.answer = programs, agent(fake)

    async def check(*members: Member, metadata: str = METADATA) -> dict[str, Check]:
        path = write_image(folder / "i.tar", members or SOUND, metadata, as_built=True)
        settings = Settings(data_dir=folder, incus_socket=fake.socket, ready_within=1)
        return {one.name: one for one in await smoke_image(path, settings, lambda _: None)}

    return check


def left(fake: FakeIncus, folder: Path) -> list[str]:
    """What there is beside what was there before."""
    return [
        *(set(fake.projects) - {"default", "taos"}),
        *(one.name for one in (folder / "cache").iterdir()),
    ]


async def test_a_sound_image_passes_and_nothing_is_left(
    smoke: Smoke, fake: FakeIncus, folder: Path
) -> None:
    checks = await smoke()
    assert {one.name: one.detail for one in checks.values() if one.state != CheckState.passed} == {}
    assert checks["two turns"].detail == "the model's answers came back; it was asked 2 times."
    assert checks["native modules"].detail == "3 load"
    assert "ready" in checks["deploy and readiness"].detail
    assert left(fake, folder) == []


async def test_an_agent_that_is_never_ready_fails_and_the_rest_is_not_run(
    smoke: Smoke, fake: FakeIncus, folder: Path
) -> None:
    fake.answer, fake.ready_after = None, None
    checks = await smoke()
    assert checks["deploy and readiness"].state == CheckState.failed
    assert "did not become ready" in checks["deploy and readiness"].detail
    assert {one.state for one in list(checks.values())[7:]} == {CheckState.not_run}
    assert left(fake, folder) == []


async def test_an_image_that_incus_refuses_fails_at_import(
    smoke: Smoke, fake: FakeIncus, folder: Path
) -> None:
    fake.fail_next("POST /1.0/images", 500, "broken tar")
    checks = await smoke()
    assert "broken tar" in checks["import"].detail
    assert checks["two turns"].state == CheckState.not_run
    assert left(fake, folder) == []


async def test_a_unit_that_runs_as_root_fails(smoke: Smoke, fake: FakeIncus) -> None:
    async def as_root(run: FakeExec) -> int:
        await run.write(b"0\n1000\n")
        return 0

    fake.on_exec = as_root
    checks = await smoke()
    assert "run as users 0, 1000" in checks["agent's user"].detail


async def test_an_agent_that_does_not_ask_its_model_fails(smoke: Smoke, fake: FakeIncus) -> None:
    fake.answer = None
    checks = await smoke()
    assert "did not come back; it was asked 0 times" in checks["two turns"].detail
    assert checks["native modules"].state == CheckState.passed


async def test_an_agent_that_forgets_fails(smoke: Smoke, fake: FakeIncus) -> None:
    fake.answer = agent(fake, remembers=False)
    assert "did not remember" in (await smoke())["two turns"].detail


async def test_a_program_and_a_module_that_do_not_work_are_named(
    smoke: Smoke, fake: FakeIncus
) -> None:
    async def broken(run: FakeExec) -> int:
        if run.argv[-1].endswith("koffi.node") or run.argv[0] == "curl":
            await run.write(b"undefined symbol", 2)
            return 1
        return await programs(run)

    fake.on_exec = broken
    checks = await smoke()
    failed = {name: one.detail for name, one in checks.items() if one.state == CheckState.failed}
    assert set(failed) == {"native modules", "curl"}
    assert "koffi.node" in failed["native modules"]
    assert "undefined symbol" in failed["curl"]


async def test_a_removed_module_is_named(smoke: Smoke) -> None:
    checks = await smoke(*(one for one in SOUND if "koffi" not in one.path))
    assert "No file in the image is /opt/openclaw/node_modules/@koromix/koffi" in (
        checks["native modules"].detail
    )


async def test_an_image_of_another_processor_is_not_called_passed(
    smoke: Smoke, fake: FakeIncus
) -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    checks = await smoke(metadata=METADATA.replace(platform.machine(), other))
    assert checks["no identity"].state == CheckState.passed
    assert checks["two turns"].state == CheckState.not_run
    assert checks["deploy and readiness"].detail.startswith("an image for ")
    assert not [call for call in fake.calls if call.startswith("POST")]


async def test_a_base_is_refused(smoke: Smoke) -> None:
    with pytest.raises(InvalidInput, match="is a base"):
        await smoke(metadata=METADATA.replace("openclaw", "debian-13"))


async def test_a_host_that_cannot_boot_any_image_is_not_the_images_fault(
    smoke: Smoke, fake: FakeIncus
) -> None:
    fake.fail_next("POST /1.0/projects", 500, "database is locked")
    with pytest.raises(HostNotReady, match="Incus says: database is locked"):
        await smoke()


async def test_cancelling_leaves_nothing(smoke: Smoke, fake: FakeIncus, folder: Path) -> None:
    asked = asyncio.Event()

    async def hang(request: web.Request, instance: str) -> web.Response:
        asked.set()
        return web.Response(status=503)

    fake.answer = hang
    task = asyncio.create_task(smoke())  # type: ignore[arg-type] # an awaitable that is a coroutine
    await asked.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert left(fake, folder) == []


async def test_what_a_killed_smoke_test_left_is_removed_and_no_other(
    fake: FakeIncus, folder: Path
) -> None:
    async with (
        Incus.unix(fake.socket) as incus,
        build_folder(folder / "cache") as at_work,
    ):
        for name, place in {"dead": folder / "gone", "alive": at_work}.items():
            fake.add_project(f"taos-smoke-{name}", config={FOLDER_KEY: str(place)})
        fake.add_project("taos-smoke-somebodys-own")
        await remove_leftovers(incus)
    assert {name for name in fake.projects if "smoke" in name} == {
        "taos-smoke-alive",
        "taos-smoke-somebodys-own",
    }
