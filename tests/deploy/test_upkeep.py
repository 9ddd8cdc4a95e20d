"""Images over time: policies, newer releases, later tries, files on a stick, removal."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.deploy.test_download import Released, begin, download, in_use
from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.mirror import Mirror
from tests.unit.signing.channels import image_of
from tinyagentos.images.bundle import read_bundle
from tinyagentos.model.errors import Conflict, InvalidInput
from tinyagentos.model.image import ImagePolicy, ImageRow, ImageState
from tinyagentos.model.job import Job, JobState


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return Released(tmp_path, more_bytes=300_000)


@pytest.fixture
async def web(released: Released) -> AsyncIterator[Mirror]:
    async with Mirror(released.files) as running:
        yield running


async def row(taos: Taos) -> ImageRow:
    return next(one for one in await taos.images.list_images() if one.framework == "openclaw")


def publish_newer(released: Released, web: Mirror, tmp_path: Path) -> str:
    newer = Released(tmp_path / "newer", more_bytes=100_000)
    image = image_of(
        newer.content, sequence=2, version="2027.1.1", chunk_bytes=1 << 16,
        chunks=newer.target.chunks,
    )  # fmt: skip
    released.channel.show(image)
    web.files = released.channel.files | {image.file_name: newer.content}
    return image.fingerprint


async def test_the_chosen_policy_goes_before_the_setting_and_is_kept(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    taos = begin(folder, fake, released, web, image_policy="manual")
    assert taos.images.policy is ImagePolicy.manual
    taos.images.choose_policy(ImagePolicy.off)
    with pytest.raises(Conflict, match="policy is off"):
        taos.images.start_download("openclaw")
    await taos.close()
    again = begin(folder, fake, released, web, image_policy="manual")
    assert again.images.policy is ImagePolicy.off
    again.images.choose_policy(ImagePolicy.background)
    await again.idle()
    assert in_use(fake) == released.target.fingerprint, "background begins at once"
    await again.close()


@pytest.mark.parametrize("policy", ["lazy", "background", "manual"])
async def test_a_newer_release(
    policy: str, folder: Path, fake: FakeIncus, released: Released, web: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "newer").mkdir()
    taos = begin(folder, fake, released, web, image_policy=policy)
    assert (await download(taos)).state is JobState.succeeded
    newer = publish_newer(released, web, tmp_path)
    await taos.images.look_after("openclaw")
    assert (await row(taos)).state is ImageState.ready, "it was asked a moment ago"
    taos.later = timedelta(days=1)
    web.rate = 400_000
    await taos.images.look_after("openclaw")
    seen = await row(taos)
    assert (seen.state, seen.newest) == (
        ImageState.stale if policy == "manual" else ImageState.ready, "2027.1.1"
    )  # fmt: skip
    assert seen.fingerprint == released.target.fingerprint
    await taos.idle()
    assert in_use(fake) == (released.target.fingerprint if policy == "manual" else newer)
    await taos.close()


async def test_what_could_not_be_had_is_tried_again_later(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror
) -> None:
    web.status = 503
    taos = begin(folder, fake, released, web)
    assert (await download(taos)).state is JobState.failed
    seen = await row(taos)
    assert seen.state is ImageState.absent
    assert "Tried again after" in seen.reason
    assert taos.images.want("openclaw") is None, "a deploy does not try what failed a moment ago"
    web.status = 0
    await taos.images.look_after("openclaw")
    assert taos.runner.list_active() == ()
    taos.later = timedelta(minutes=3)
    await taos.images.look_after("openclaw")
    await taos.idle()
    assert (await row(taos)).state is ImageState.ready
    await taos.close()


async def test_what_cannot_be_trusted_is_not_tried_again_by_itself(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "newer").mkdir()
    web.files[released.target.file_name] = b"\1" * len(released.content)
    taos = begin(folder, fake, released, web)
    assert (await download(taos)).state is JobState.failed
    seen = await row(taos)
    assert seen.state is ImageState.rejected
    assert "another image than was signed" in seen.reason
    taos.later = timedelta(days=2)
    await taos.images.look_after("openclaw")
    assert taos.runner.list_active() == ()
    newer = publish_newer(released, web, tmp_path)
    taos.later = timedelta(days=4)
    await taos.images.look_after("openclaw")
    await taos.idle()
    assert in_use(fake) == newer
    await taos.close()


async def export(taos: Taos, file: Path) -> Job:
    return await taos.runner.wait_job(taos.images.start_export("openclaw", file).id)


async def test_an_image_travels_in_a_file(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror, tmp_path: Path
) -> None:
    taos = begin(folder, fake, released, web)
    assert (await download(taos)).state is JobState.succeeded
    stick = tmp_path / "stick.taos"
    job = await export(taos, stick)
    assert job.state is JobState.succeeded, job.error
    assert read_bundle(stick).framework == "openclaw"
    assert [one.name for one in tmp_path.glob("*.part")] == []
    with pytest.raises(Conflict, match="there already"):
        taos.images.start_export("openclaw", stick)
    await taos.images.remove("openclaw")
    await taos.close()
    other_folder = folder / "other"
    other_folder.mkdir()
    other = begin(other_folder, fake, released, web, image_channel="")
    ended = await other.runner.wait_job(other.images.start_import(stick).id)
    assert ended.state is JobState.succeeded, ended.error
    assert in_use(fake) == released.target.fingerprint
    await other.close()


@pytest.mark.parametrize("spoiled", ["image", "metadata"])
async def test_a_spoiled_file_is_refused(
    spoiled: str, folder: Path, fake: FakeIncus, released: Released, web: Mirror, tmp_path: Path
) -> None:
    taos = begin(folder, fake, released, web)
    await download(taos)
    stick = tmp_path / "stick.taos"
    await export(taos, stick)
    await taos.images.remove("openclaw")
    content = bytearray(stick.read_bytes())
    at = len(content) // 2 if spoiled == "image" else content.rindex(b'"sig"') + 12
    content[at] ^= 1
    stick.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match="ends too early"):
        taos.images.start_import(stick)
    stick.write_bytes(content)
    shutil.rmtree(folder / "channel")  # what is trusted already is not read from the file again
    before = fake.calls.count("POST /1.0/images")
    ended = await taos.runner.wait_job(taos.images.start_import(stick).id)
    assert ended.error
    assert ended.error.code in ("untrusted", "unavailable")
    assert fake.calls.count("POST /1.0/images") == before
    assert fake.project().images == {}
    await taos.close()


async def test_what_is_no_exported_image(taos: Taos, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "nothing", Path("relative")):
        with pytest.raises(InvalidInput):
            taos.images.start_import(path)


async def test_what_was_built_here_cannot_be_exported(
    folder: Path, fake: FakeIncus, released: Released, web: Mirror, tmp_path: Path
) -> None:
    with_image(fake)
    taos = begin(folder, fake, released, web)
    await taos.runner.wait_job(taos.images.start_download("openclaw").id)
    fake.project().images.pop(released.target.fingerprint)
    job = await export(taos, tmp_path / "stick.taos")
    assert job.error
    assert "not signed" in job.error.hint
    assert list(tmp_path.glob("*stick*")) == []
    await taos.close()


async def test_an_image_in_use_stays(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    with pytest.raises(Conflict, match="in use by hello"):
        await taos.images.remove("openclaw")
    await taos.close()
