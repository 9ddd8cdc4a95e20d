"""What is told of bytes and time before a deploy, and while it is the first of its kind."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.deploy.test_download import Released, begin, download
from tests.deploy.world import ARCH, IMAGE_PRINT, MIB, Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.mirror import Mirror
from tinyagentos.agents.plan import START_SECONDS
from tinyagentos.agents.steps import INSTALL, WAIT_BUILD, WAIT_IMAGE
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.images.download import FETCHED
from tinyagentos.model.agent import AgentSpec, Framework, Source
from tinyagentos.model.image import SupplyRecord

BUILD = load_recipe("openclaw").build_seconds + load_recipe("debian-13").build_seconds


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return Released(tmp_path, more_bytes=500_000)


@pytest.fixture
async def web(released: Released) -> AsyncIterator[Mirror]:
    async with Mirror(released.files) as running:
        yield running


async def openclaw(taos: Taos) -> Framework:
    return next(one for one in await taos.agents.list_frameworks() if one.name == "openclaw")


async def test_before_anything_happened_here_the_recipes_figures_are_told(taos: Taos) -> None:
    one = await openclaw(taos)
    assert one.image_size_bytes is None
    assert one.image_budget_bytes == load_recipe("openclaw").budget.packed_bytes
    assert one.expected_seconds == {
        "download": None, "image": START_SECONDS, "build": BUILD + START_SECONDS
    }  # fmt: skip


async def test_a_release_that_is_known_tells_its_size_and_with_the_lines_rate_its_time(
    taos: Taos,
) -> None:
    record = SupplyRecord(fingerprint="f" * 64, version="9", size_bytes=100_000_000)
    taos.supply.table.put(f"openclaw/{ARCH}", record)
    assert (await openclaw(taos)).image_size_bytes == 100_000_000
    assert (await openclaw(taos)).expected_seconds["download"] is None, "no rate is known yet"
    taos.host.timings.add(FETCHED, "opencode/x64", 10.0, taos.host.now(), 50_000_000)
    assert (await openclaw(taos)).expected_seconds["download"] == 20 + 4
    (part := taos.supply.folder / f"{'f' * 64}.part").parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 25_000_000)
    assert (await openclaw(taos)).expected_seconds["download"] == 15 + 4


async def test_an_image_that_is_here_is_weighed_itself_and_costs_no_download(
    taos: Taos, fake: FakeIncus
) -> None:
    fake.add_image("taos", IMAGE_PRINT, f"openclaw/{ARCH}", size=117_000_000)
    fake.add_image("taos", "b" * 64, f"debian-13/{ARCH}")
    one = await openclaw(taos)
    assert one.image_size_bytes == 117_000_000
    assert one.expected_seconds["download"] == 0
    assert one.expected_seconds["build"] == 9 + START_SECONDS, "the base is here"


async def test_what_was_measured_here_goes_before_the_figures(taos: Taos) -> None:
    for what, seconds in (("deploy.image", 5.0), ("deploy.build", 30.0)):
        taos.host.timings.add(what, f"openclaw/{ARCH}", seconds, taos.host.now())
    assert (await openclaw(taos)).expected_seconds == {
        "download": None, "image": 5.0, "build": 30.0
    }  # fmt: skip


async def test_an_incus_that_hangs_is_told_from_memory(taos: Taos, fake: FakeIncus) -> None:
    with_image(fake)
    assert (await openclaw(taos)).expected_seconds["download"] == 0
    fake.stall_next("GET /1.0/images")
    begun = time.monotonic()
    assert (await openclaw(taos)).expected_seconds["download"] == 0
    assert time.monotonic() - begun < 3
    await fake.stop()
    assert (await openclaw(taos)).expected_seconds["download"] == 0
    await fake.start()


async def test_the_first_deploy_says_how_long_it_is_expected_to_take(taos: Taos) -> None:
    job = await taos.deploy("hello")
    assert job.source == "build"
    assert job.expected_seconds == pytest.approx(BUILD + START_SECONDS, abs=3)
    await taos.idle()
    second = await taos.deploy("second")
    assert second.source == "image"
    assert second.expected_seconds == pytest.approx(START_SECONDS, abs=3)


async def test_who_waits_for_anothers_build_is_told_how_long(taos: Taos) -> None:
    taos.builder.go_on.clear()
    first = await taos.agents.start_deploy(AgentSpec("first"))
    await taos.until(first.id, INSTALL)
    second = await taos.agents.start_deploy(AgentSpec("second"))
    await taos.until(second.id, WAIT_BUILD)
    expected = taos.runner.get_job(second.id).expected_seconds
    assert expected == pytest.approx(BUILD + 2 * START_SECONDS, abs=3)
    taos.builder.go_on.set()
    await taos.idle()


async def test_a_wait_for_the_download_is_part_of_what_is_expected(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = released.target.size_bytes // 4
    taos = begin(folder, fake, released, web)
    job = await taos.agents.start_deploy(AgentSpec("hello"))
    await taos.until(job.id, WAIT_IMAGE)
    expected = taos.runner.get_job(job.id).expected_seconds
    assert expected
    assert START_SECONDS + 0.5 < expected < START_SECONDS + 15
    await taos.idle()
    rate = taos.host.timings.typical_rate(FETCHED)
    assert rate == pytest.approx(web.rate, rel=0.5)
    assert taos.images.usual_rate() == rate, "that nothing comes now says nothing of the line"
    await taos.close()


async def test_a_wait_of_unknown_length_is_not_guessed(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.stall_after = 0
    taos = begin(folder, fake, released, web, image_stall=60)
    job = await taos.agents.start_deploy(AgentSpec("hello", source=Source.image))
    await taos.until(job.id, WAIT_IMAGE)
    assert taos.runner.get_job(job.id).expected_seconds is None
    taos.runner.cancel_job(job.id)
    for one in taos.runner.list_active():
        if one.id != job.id:
            taos.runner.cancel_job(one.id)
    await taos.idle()
    await taos.close()


async def test_a_switch_to_the_image_that_came_is_expected_anew(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.stall_after = 100_000
    taos = begin(folder, fake, released, web, image_stall=4)
    taos.builder.go_on.clear()
    job = await taos.agents.start_deploy(AgentSpec("hello"))
    await taos.until(job.id, INSTALL)
    assert taos.runner.get_job(job.id).expected_seconds == pytest.approx(
        BUILD + START_SECONDS, abs=4
    )
    ended = await taos.runner.wait_job(job.id)
    assert ended.source == "image"
    assert ended.expected_seconds
    assert ended.expected_seconds < BUILD
    await taos.close()


async def test_room_is_what_one_more_deploy_may_take(folder: Path, fake: FakeIncus) -> None:
    taos = Taos(folder, fake, memory=2000 * MIB, memory_reserve_mb=100).start()
    assert taos.agents.memory_room() == 1900 * MIB
    assert await taos.agents.disk_room() == 100 << 30
    taos.builder.go_on.clear()
    await taos.agents.start_deploy(AgentSpec("hello"))
    need = load_recipe("openclaw").agent.memory_need_bytes
    assert taos.agents.memory_room() == 1900 * MIB - need
    taos.builder.go_on.set()
    await taos.idle()
    await taos.close()


async def test_each_deploy_under_way_is_promised_what_its_own_framework_needs(
    folder: Path, fake: FakeIncus
) -> None:
    frameworks = ("openclaw", "hermes-agent")
    taos = Taos(folder, fake, memory=5000 * MIB, memory_reserve_mb=0, frameworks=frameworks).start()
    taos.builder.go_on.clear()
    await taos.agents.start_deploy(AgentSpec("hello", "hermes-agent"))
    need = load_recipe("hermes-agent").agent.memory_need_bytes
    assert taos.agents.memory_room() == 5000 * MIB - need
    taos.builder.go_on.set()
    await taos.idle()
    await taos.close()


async def test_downloading_leaves_no_rate_of_what_came_too_quickly(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web)
    await download(taos)
    assert taos.host.timings.typical_rate(FETCHED) is None
    await taos.close()
