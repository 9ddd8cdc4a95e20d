"""Fetching: whatever the line and the server do, the right bytes arrive, or a clear refusal."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.mirror import Mirror
from tinyagentos.images.fetch import Manner, fetch_image, find_good_parts, part_path
from tinyagentos.images.line import Line
from tinyagentos.images.source import Source, open_source
from tinyagentos.images.verify import VerifiedImage, verify
from tinyagentos.model.errors import InvalidInput, NoSpace, NotFound, Unavailable
from tinyagentos.model.release import ImageTarget, WrongContent

CHUNK = 1 << 16
CONTENT = random.Random(1).randbytes(CHUNK * 9 + 123)


def target_of(content: bytes) -> ImageTarget:
    chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    return ImageTarget(
        framework="openclaw", version="1", arch="x64",
        fingerprint=hashlib.sha256(content).hexdigest(), size_bytes=len(content),
        unpacked_bytes=1, chunk_bytes=CHUNK,
        chunks=tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks),
        recipe="0" * 64, released=datetime(2026, 1, 1, tzinfo=UTC), sequence=1,
    )  # fmt: skip


TARGET = target_of(CONTENT)


async def at_once(_: float) -> None:
    await asyncio.sleep(0)


QUICK = Manner(stall=0.3, sleep=at_once)


class Seen:
    """What a person is shown."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.notes: list[str] = []


async def get(address: str, folder: Path, seen: Seen | None = None, manner: Manner = QUICK) -> Path:
    seen = seen or Seen()
    return await fetch_image(
        TARGET, Source(address), folder,
        progress=lambda done, _: seen.bytes.append(done), note=seen.notes.append, manner=manner,
    )  # fmt: skip


def mirror() -> Mirror:
    return Mirror({TARGET.file_name: CONTENT})


async def test_the_whole_file_in_one_request(tmp_path: Path) -> None:
    seen = Seen()
    async with mirror() as web:
        path = await get(web.url, tmp_path, seen)
    assert path.read_bytes() == CONTENT
    assert len(web.requests) == 1
    assert seen.bytes == sorted(seen.bytes)
    assert (seen.bytes[0], seen.bytes[-1]) == (0, len(CONTENT))


async def test_a_dropped_connection_costs_at_most_one_part(tmp_path: Path) -> None:
    async with mirror() as web:
        web.cut_after = CHUNK * 4 + CHUNK // 2
        assert (await get(web.url, tmp_path)).read_bytes() == CONTENT
    assert web.requests[1].endswith(f"bytes={CHUNK * 4}-")
    assert web.sent <= len(CONTENT) + CHUNK


async def test_a_stall_is_noticed_and_said(tmp_path: Path) -> None:
    seen = Seen()
    async with mirror() as web:
        web.stall_after = CHUNK * 3
        assert (await get(web.url, tmp_path, seen)).read_bytes() == CONTENT
    assert "no byte came" in seen.notes[0]


async def test_what_is_here_is_not_fetched_again_and_only_bad_parts_are(tmp_path: Path) -> None:
    spoiled = bytearray(CONTENT)
    spoiled[CHUNK * 2 + 5] ^= 1
    spoiled[CHUNK * 6 + 5] ^= 1
    part_path(tmp_path, TARGET).write_bytes(spoiled)
    async with mirror() as web:
        assert (await get(web.url, tmp_path)).read_bytes() == CONTENT
    assert [one.split("=")[1] for one in web.requests] == [f"{CHUNK * 2}-", f"{CHUNK * 6}-"]


async def test_a_server_without_ranges_sends_all_and_that_will_do(tmp_path: Path) -> None:
    part_path(tmp_path, TARGET).write_bytes(CONTENT[: CHUNK * 5])
    async with mirror() as web:
        web.ranges = False
        web.cut_after = CHUNK * 7
        assert (await get(web.url, tmp_path)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:CHUNK] + b"x" + content[CHUNK + 1 :],
        lambda content: b"\0" * len(content),
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
    ids=["one byte", "garbage", "the last byte"],
)
async def test_wrong_bytes_are_refused_and_named(spoil: object, tmp_path: Path) -> None:
    async with mirror() as web:
        web.spoil = spoil  # type: ignore[assignment]
        with pytest.raises(WrongContent, match="part"):
            await get(web.url, tmp_path)


async def test_a_file_said_to_be_longer_is_refused_before_a_byte_is_kept(tmp_path: Path) -> None:
    async with mirror() as web:
        web.said_more = 1
        with pytest.raises(WrongContent, match="bytes"):
            await get(web.url, tmp_path)
    assert find_good_parts(part_path(tmp_path, TARGET), TARGET) == set()


async def test_a_truncated_file_is_asked_for_again_then_given_up(tmp_path: Path) -> None:
    async with mirror() as web:
        web.spoil = lambda content: content[: CHUNK * 3]
        with pytest.raises(Unavailable):
            await get(web.url, tmp_path)
    assert len(find_good_parts(part_path(tmp_path, TARGET), TARGET)) == 3


@pytest.mark.parametrize("status", [500, 503, 403, 429])
async def test_a_refusing_server_is_tried_again_then_given_up(status: int, tmp_path: Path) -> None:
    seen = Seen()
    async with mirror() as web:
        web.status = status
        with pytest.raises(Unavailable, match=str(status)):
            await get(web.url, tmp_path, seen)
    assert len(web.requests) == 8
    assert len(seen.notes) == 7


async def test_a_missing_file_and_a_missing_server(tmp_path: Path) -> None:
    async with mirror() as web:
        web.files.clear()
        with pytest.raises(NotFound):
            await get(web.url, tmp_path)
        address = web.url
    with pytest.raises(Unavailable):
        await get(address, tmp_path)


async def test_a_cancel_takes_effect_at_once_and_keeps_what_came(tmp_path: Path) -> None:
    async with mirror() as web:
        web.stall_after = CHUNK * 4
        fetching = asyncio.ensure_future(get(web.url, tmp_path, manner=Manner(stall=60)))
        while len(find_good_parts(part_path(tmp_path, TARGET), TARGET)) < 4:
            await asyncio.sleep(0.01)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(fetching, 1)
        assert (await get(web.url, tmp_path)).read_bytes() == CONTENT
    assert web.sent <= len(CONTENT) + CHUNK


async def test_a_full_disk_is_said_with_numbers(tmp_path: Path) -> None:
    part_path(tmp_path, TARGET).symlink_to("/dev/full")
    async with mirror() as web:
        with pytest.raises(NoSpace, match="No space left on device"):
            await get(web.url, tmp_path)
    assert len(web.requests) == 1


async def test_a_cap_on_the_rate_holds(tmp_path: Path) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with mirror() as web:
        await get(web.url, tmp_path, manner=Manner(line=Line(limit=CHUNK, sleep=sleep)))
    assert max(slept) > 1


async def test_a_folder_is_a_channel_too(tmp_path: Path) -> None:
    (tmp_path / TARGET.file_name).write_bytes(CONTENT)
    path = await get(str(tmp_path), tmp_path / "parts")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["", "ftp://a/b", "relative/folder", "file:///x"])
def test_what_is_no_channel(address: str) -> None:
    with pytest.raises(InvalidInput):
        open_source(address)


async def test_only_verify_makes_a_verified_image(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    image = await verify(path, TARGET)
    assert image.path.read_bytes() == CONTENT
    with pytest.raises(TypeError):
        VerifiedImage(path, TARGET, object())
    path.write_bytes(CONTENT + b"x")
    with pytest.raises(WrongContent):
        await verify(path, TARGET)
    assert not path.exists()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.integers(0, len(CONTENT))),
        st.tuples(st.just("damage"), st.integers(0, len(CONTENT) - 1)),
        st.tuples(st.just("shorten"), st.integers(0, len(CONTENT))),
        st.tuples(st.just("no ranges"), st.just(0)),
    ),
    max_size=6,
)


@given(steps)
@settings(max_examples=40, deadline=None)
async def test_any_sequence_of_faults_ends_in_the_right_bytes(
    faults: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = part_path(folder, TARGET)
        async with mirror() as web:
            for kind, where in faults:
                web.sent, web.ranges = 0, kind != "no ranges"
                web.cut_after = where if kind == "cut" else None
                if kind == "damage" and path.exists() and where < path.stat().st_size:
                    held = bytearray(path.read_bytes())
                    held[where] ^= 0xFF
                    path.write_bytes(held)
                if kind == "shorten" and path.exists():
                    path.write_bytes(path.read_bytes()[:where])
                await get(web.url, folder)
            assert (await get(web.url, folder)).read_bytes() == CONTENT


async def test_a_signed_address_that_expires_is_asked_for_again(tmp_path: Path) -> None:
    """The channel leads to a store whose address stops working after a drop: 403 once."""
    asked: list[str] = []
    async with mirror() as store:
        store.cut_after = CHUNK * 3

        async def lead(request: web.Request) -> web.StreamResponse:
            asked.append(request.headers.get("Range", ""))
            if len(asked) == 2:
                store.status = 403  # the address of the first answer is of no use any more
            else:
                store.status = 0
            raise web.HTTPFound(f"{store.url}/{request.match_info['name']}")

        app = web.Application()
        app.router.add_get("/{name}", lead)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        path = await get(f"http://127.0.0.1:{runner.addresses[0][1]}", tmp_path)
        await runner.cleanup()
    assert path.read_bytes() == CONTENT
    assert len(asked) == 3, "every try begins at the channel's own address"
    assert asked[0] == "bytes=0-"
    assert asked[2] != "bytes=0-"
