"""Attacks on a channel: each is refused before Incus sees a byte, and the working image stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web as aioweb

from tests.deploy.test_download import Released, begin, download, in_use
from tests.deploy.world import IMAGE_PRINT, Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.mirror import Mirror
from tests.unit.signing.channels import MemoryChannel, image_of
from tinyagentos.model.job import JobState

Attack = Callable[[Mirror, Released, Taos], None]


def flipped_byte(web: Mirror, released: Released, _: Taos) -> None:
    content = bytearray(released.content)
    content[len(content) // 2] ^= 1
    web.files[released.target.file_name] = bytes(content)


def truncated(web: Mirror, released: Released, _: Taos) -> None:
    web.files[released.target.file_name] = released.content[:-1000]


def longer_than_stated(web: Mirror, released: Released, _: Taos) -> None:
    web.files[released.target.file_name] = released.content + b"more"


def wrong_signature(web: Mirror, _: Released, __: Taos) -> None:
    timestamp = json.loads(web.files["timestamp.json"])
    timestamp["signatures"][0]["sig"] = "00" * 64
    web.files["timestamp.json"] = json.dumps(timestamp).encode()


def other_keys(web: Mirror, released: Released, taos: Taos) -> None:
    other = MemoryChannel(taos.folder / "other", datetime.now(UTC)).begin()
    other.show(released.target)
    web.files |= {name: content for name, content in other.files.items() if "root" not in name}


def another_images_signature(web: Mirror, released: Released, _: Taos) -> None:
    """The targets of a release of another image, in the place of the signed ones."""
    targets = max(name for name in web.files if name.endswith(".targets.json"))
    before = web.files[targets]
    released.channel.show(image_of(b"another" * 20000, sequence=2))
    web.files = released.files | {max(n for n in released.files if "targets" in n): before}


def too_few_signatures(web: Mirror, released: Released, _: Taos) -> None:
    """A next root that names a key of the attacker's and is signed by nobody else."""
    root = json.loads((released.root).read_bytes())
    root["signed"]["version"] = 2
    root["signatures"] = root["signatures"][:0]
    web.files["2.root.json"] = json.dumps(root).encode()


def endless(web: Mirror, _: Released, __: Taos) -> None:
    web.files["timestamp.json"] = b" " * (8 << 20)


def path_in_a_target_name(web: Mirror, released: Released, _: Taos) -> None:
    """Signed with the right keys: even the publisher cannot write outside the cache."""
    released.channel.show(image_of(released.content, sequence=3, version="../../etc"))
    web.files = released.files


def expired(web: Mirror, released: Released, _: Taos) -> None:
    channel = released.channel
    channel.now = datetime.now(UTC) - timedelta(days=4000)
    channel.show(released.target)
    web.files = released.files


BY_SERVING = [
    flipped_byte, truncated, longer_than_stated, wrong_signature, other_keys,
    another_images_signature, too_few_signatures, endless, path_in_a_target_name, expired,
]  # fmt: skip


def uploads(fake: FakeIncus) -> list[str]:
    return [one for one in fake.calls if one.startswith("POST /1.0/images")]


async def assert_refused(taos: Taos, fake: FakeIncus) -> None:
    job = await download(taos)
    assert job.state is JobState.failed
    assert job.error
    assert job.error.code in ("untrusted", "unavailable"), job.error
    assert uploads(fake) == []
    assert in_use(fake) == IMAGE_PRINT
    assert set(fake.project().images) == {IMAGE_PRINT}


@pytest.mark.parametrize("attack", BY_SERVING, ids=lambda one: one.__name__.replace("_", " "))
async def test_it_is_refused(attack: Attack, folder: Path, fake: FakeIncus, tmp_path: Path) -> None:
    with_image(fake)
    released = Released(tmp_path)
    async with Mirror(released.files) as web:
        taos = begin(folder, fake, released, web)
        attack(web, released, taos)
        await assert_refused(taos, fake)
        await taos.close()


@pytest.mark.parametrize("what", ["older release replayed", "frozen timestamp"])
async def test_an_older_state_of_the_channel(
    what: str, folder: Path, fake: FakeIncus, tmp_path: Path
) -> None:
    released = Released(tmp_path)
    old = dict(released.files)
    async with Mirror(released.files) as web:
        released.channel.show(released.target)  # the next version of the channel
        web.files = released.files
        taos = begin(folder, fake, released, web)
        assert (await download(taos)).state is JobState.succeeded
        sent = len(uploads(fake))
        if what == "frozen timestamp":
            web.files["timestamp.json"] = old["timestamp.json"]
        else:
            web.files = old
        job = await download(taos)
        assert job.error
        assert job.error.code == "untrusted"
        assert len(uploads(fake)) == sent
        assert in_use(fake) == released.target.fingerprint
        await taos.close()


async def test_a_redirect_without_end(folder: Path, fake: FakeIncus, tmp_path: Path) -> None:
    with_image(fake)
    released = Released(tmp_path)

    async def around(request: aioweb.Request) -> aioweb.StreamResponse:
        raise aioweb.HTTPFound(request.path)

    app = aioweb.Application()
    app.router.add_get("/{name}", around)
    runner = aioweb.AppRunner(app)
    await runner.setup()
    await aioweb.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with Mirror(released.files) as web:
        taos = begin(folder, fake, released, web, image_channel=url)
        await assert_refused(taos, fake)
        await taos.close()
    await runner.cleanup()


async def test_an_image_that_never_ends(folder: Path, fake: FakeIncus, tmp_path: Path) -> None:
    """The mirror goes on after the signed size: no more than that is taken."""
    with_image(fake)
    released = Released(tmp_path)
    async with Mirror(released.files) as web:
        web.ranges = False
        web.files[released.target.file_name] = released.content + b"\0" * (32 << 20)
        taos = begin(folder, fake, released, web)
        await assert_refused(taos, fake)
        assert web.sent < 16 << 20
        await taos.close()
