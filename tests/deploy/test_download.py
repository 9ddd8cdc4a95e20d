"""Getting an image from a channel: proven before Incus sees it, the working one stays till then."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.deploy.world import IMAGE_PRINT, Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.mirror import Mirror
from tests.fakes.tiny_image import TinyImage, build_unified
from tests.unit.signing.channels import MemoryChannel, image_of
from tinyagentos.images.download import STEPS
from tinyagentos.model.errors import Conflict, HostNotReady, InvalidInput, NotFound
from tinyagentos.model.image import ImagePolicy, ImageRow, ImageState, SupplyRecord
from tinyagentos.model.job import Job, JobState
from tinyagentos.model.release import ImageTarget


class Released:
    """A channel with one image in it."""

    def __init__(self, folder: Path, more_bytes: int = 0) -> None:
        properties = {"taos.framework": "openclaw", "taos.version": "9"}
        more = {"root/more": random.Random(1).randbytes(more_bytes)}
        self.tiny: TinyImage = build_unified(folder / "tiny.tar", properties=properties, files=more)
        self.content = self.tiny.path.read_bytes()
        self.target: ImageTarget = image_of(
            self.content, chunk_bytes=1 << 16, chunks=chunks(self.content)
        )
        self.channel = MemoryChannel(folder / "keys", datetime.now(UTC)).begin()
        self.channel.show(self.target)
        self.root = folder / "keys" / "1.root.json"

    @property
    def files(self) -> dict[str, bytes]:
        """All files of the channel."""
        return self.channel.files | {self.target.file_name: self.content}


def chunks(content: bytes) -> tuple[str, ...]:
    parts = [content[at : at + (1 << 16)] for at in range(0, len(content), 1 << 16)]
    return tuple(hashlib.sha256(part).hexdigest() for part in parts)


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return Released(tmp_path)


@pytest.fixture
async def web(released: Released) -> AsyncIterator[Mirror]:
    async with Mirror(released.files) as running:
        yield running


def begin(folder: Path, fake: FakeIncus, released: Released, web: Mirror, **more: object) -> Taos:
    channel = {"image_channel": web.url, "image_root": released.root, "image_stall": 0.5}
    return Taos(folder, fake, **(channel | more)).start()


async def download(taos: Taos) -> Job:
    return await taos.runner.wait_job(taos.images.start_download("openclaw").id)


def in_use(fake: FakeIncus) -> str:
    return fake.project().aliases["openclaw/x64"]


async def test_it_comes_into_use_and_the_one_before_goes(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    with_image(fake)
    taos = begin(folder, fake, released, web)
    job = await download(taos)
    assert job.state is JobState.succeeded, job.error
    assert in_use(fake) == released.target.fingerprint
    assert IMAGE_PRINT not in fake.project().images
    [fetch] = [step for step in job.steps if step.name == "fetch"]
    assert fetch.done_bytes == fetch.total_bytes == released.target.size_bytes
    assert list((folder / "cache" / "images").iterdir()) == []
    assert fake.project().instances == {}
    asked = len(web.requests)
    assert (await download(taos)).state is JobState.succeeded
    assert len(web.requests) > asked  # the channel was asked, the image not fetched again
    assert sum(released.target.file_name in one for one in web.requests) == 1
    await taos.close()


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_in_each_step(
    step: str, folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    with_image(fake)
    first = begin(folder, fake, released, web)
    job = first.images.start_download("openclaw")
    await first.until(job.id, step)
    await first.die()
    second = begin(folder, fake, released, web)
    assert (await second.runner.wait_job(job.id)).state is JobState.succeeded
    assert set(fake.project().images) == {released.target.fingerprint}
    assert fake.project().instances == {}
    assert list((folder / "cache" / "images").iterdir()) == []
    await second.close()


@pytest.mark.parametrize("what", ["image", "metadata", "other keys", "refusing"])
async def test_what_cannot_be_trusted_or_had_leaves_the_working_image(
    what: str, folder: Path, fake: FakeIncus, released: Released, web: Mirror, tmp_path: Path
) -> None:
    with_image(fake)
    settings: dict[str, object] = {}
    if what == "image":
        web.files[released.target.file_name] = b"\0" * len(released.content)
    elif what == "metadata":
        web.files = dict.fromkeys(web.files, b"{}")
    elif what == "other keys":
        other = MemoryChannel(tmp_path / "other", datetime.now(UTC)).begin()
        settings["image_root"] = other.keys / "1.root.json"
    else:
        web.status = 503
    taos = begin(folder, fake, released, web, **settings)
    job = await download(taos)
    assert job.state is JobState.failed
    assert job.error
    wanted = {"image", "metadata", "other keys"}
    assert job.error.code == ("untrusted" if what in wanted else "unavailable")
    assert set(fake.project().images) == {IMAGE_PRINT}
    assert in_use(fake) == IMAGE_PRINT
    del fake.project().aliases["openclaw/x64"]
    rows = {row.framework: row for row in await taos.images.list_images()}
    assert job.error.message in rows["openclaw"].reason
    await taos.close()


async def test_a_cancel_keeps_what_came(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.rate = 1 << 16
    taos = begin(folder, fake, released, web)
    job = taos.images.start_download("openclaw")
    assert taos.images.start_download("openclaw").id == job.id
    await taos.until(job.id, "fetch")
    [row] = [r for r in await taos.images.list_images() if r.framework == "openclaw"]
    assert row.state is ImageState.fetching
    with pytest.raises(Conflict):
        await taos.images.remove("openclaw")
    while not list((folder / "cache" / "images").glob("*.part")):
        await asyncio.sleep(0.01)
    taos.runner.cancel_job(job.id)
    assert (await taos.runner.wait_job(job.id)).state is JobState.cancelled
    assert len(list((folder / "cache" / "images").glob("*.part"))) == 1
    assert fake.project().images == {}
    await taos.close()


async def started(taos: Taos, web: Mirror) -> tuple[Job, Path]:
    """A download of which something has come, and its file."""
    web.rate = 1 << 16
    job = taos.images.start_download("openclaw")
    while not taos.images.partial_bytes("openclaw"):
        await asyncio.sleep(0.01)
    [part] = taos.supply.folder.glob("*.part")
    return job, part


async def openclaw(taos: Taos) -> ImageRow:
    return next(one for one in await taos.images.list_images() if one.framework == "openclaw")


async def test_a_discarded_download_leaves_nothing(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web)
    job, part = await started(taos, web)
    taos.images.discard("openclaw")
    taos.images.discard("openclaw")
    assert (await taos.runner.wait_job(job.id)).state is JobState.cancelled
    assert not part.exists()
    row = await openclaw(taos)
    assert (row.state, row.partial_bytes) == (ImageState.absent, 0)
    assert row.reason == "its download was stopped; it goes on when you ask"
    with pytest.raises(NotFound, match="Nothing has come"):
        taos.images.discard("openclaw")
    with pytest.raises(InvalidInput):
        taos.images.discard("nothing")
    web.rate = 0
    assert (await download(taos)).state is JobState.succeeded
    await taos.close()


async def test_what_a_pause_kept_is_said_and_discarded_later(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web)
    job, part = await started(taos, web)
    taos.runner.cancel_job(job.id)
    await taos.runner.wait_job(job.id)
    row = await openclaw(taos)
    assert row.partial_bytes == part.stat().st_size > 0
    assert row.size_bytes == released.target.size_bytes
    assert row.unpacked_bytes == released.target.unpacked_bytes
    assert "MB are here" in row.reason
    taos.images.discard("openclaw")
    assert not part.exists()
    assert (await openclaw(taos)).partial_bytes == 0
    await taos.close()


async def test_a_server_that_dies_before_it_discarded_does_so_later(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    first = begin(folder, fake, released, web)
    job, part = await started(first, web)
    first.images.discard("openclaw")
    await first.die()
    assert part.exists()
    second = begin(folder, fake, released, web)
    assert (await second.runner.wait_job(job.id)).state is JobState.cancelled
    assert not part.exists()
    await second.close()


async def test_a_paused_download_goes_on_only_when_somebody_asks(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web, image_policy="background")
    job, _ = await started(taos, web)
    taos.runner.cancel_job(job.id)
    await taos.runner.wait_job(job.id)
    await taos.images.look_after("openclaw")
    assert taos.images.want("openclaw") is None
    assert taos.runner.list_active() == ()
    web.rate = 0
    taos.images.choose_policy(ImagePolicy.background)
    await taos.idle()
    assert in_use(fake) == released.target.fingerprint
    await taos.close()


async def test_one_download_leaves_what_came_of_another(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web)
    other, old = (taos.supply.folder / f"{letter * 64}.part" for letter in "de")
    other.parent.mkdir(parents=True)
    for part in (other, old):
        part.write_bytes(b"x")
    taos.supply.table.put("opencode/x64", SupplyRecord(fingerprint="d" * 64))
    assert (await download(taos)).state is JobState.succeeded
    assert other.exists()
    assert not old.exists()
    await taos.close()


async def test_what_came_of_an_older_release_goes_with_it(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web, image_policy="manual")
    old = taos.supply.folder / f"{'d' * 64}.part"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    taos.supply.table.put("openclaw/x64", SupplyRecord(fingerprint="d" * 64))
    assert await taos.images.ask_channel()
    assert not old.exists()
    await taos.close()


async def test_asking_the_channel_tells_sizes_and_fetches_nothing(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web, frameworks=("openclaw", "opencode"))
    assert await taos.images.ask_channel()
    row = await openclaw(taos)
    assert (row.newest, row.size_bytes) == (
        released.target.version, released.target.size_bytes
    )  # fmt: skip
    assert row.state is ImageState.absent
    asked = len(web.requests)
    assert not await taos.images.ask_channel(), "it was asked a moment ago"
    assert len(web.requests) == asked
    assert sum(released.target.file_name in one for one in web.requests) == 0
    taos.later = timedelta(days=1)
    assert await taos.images.ask_channel()
    taos.images.choose_policy(ImagePolicy.off)
    taos.later = timedelta(days=2)
    assert not await taos.images.ask_channel()
    await taos.close()
    silent = Taos(folder, fake)
    assert not await silent.images.ask_channel(), "there is no channel"
    await silent.close()


async def test_a_deploy_begins_it_by_policy_and_waits_for_nothing(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.status = 503
    taos = begin(folder, fake, released, web)
    taos.images.want("openclaw")
    assert (await taos.deploy("hello")).source == "build"
    assert any(job.kind == "download image" for job in taos.runner.list_jobs())
    await taos.close()


POLICIES = [("lazy", 0), ("background", 1), ("manual", 0), ("off", 0)]


@pytest.mark.parametrize(("policy", "begun"), POLICIES)
async def test_policies_at_startup(
    policy: str, begun: int, folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web, image_policy=policy)
    taos.images.start_policy()
    assert len(taos.runner.list_active()) == begun
    if policy == "off":
        with pytest.raises(Conflict):
            taos.images.start_download("openclaw")
    await taos.close()


async def test_without_a_channel_it_is_said(folder: Path, fake: FakeIncus) -> None:
    taos = Taos(folder, fake).start()
    with pytest.raises(HostNotReady, match="channel"):
        taos.images.start_download("openclaw")
    with pytest.raises(InvalidInput):
        taos.images.start_download("nothing")
    with pytest.raises(NotFound):
        await taos.images.remove("openclaw")
    taos.images.want("openclaw")
    assert taos.runner.list_active() == ()
    await taos.close()


async def test_removing_the_image(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.images.remove("openclaw")
    assert fake.project().images == {}
    await taos.close()


async def test_what_a_dead_server_began_in_incus_is_waited_for(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    busy = (
        'Failed to create instance delete operation: Instance is busy running a "create" operation'
    )
    taos = begin(folder, fake, released, web)
    fake.add_image("taos", released.target.fingerprint)
    for _ in range(2):
        fake.fail_next("DELETE /1.0/instances/*", 500, busy)
    job = await download(taos)
    assert job.state is JobState.succeeded, job.error
    assert in_use(fake) == released.target.fingerprint
    assert fake.project().instances == {}
    await taos.close()
