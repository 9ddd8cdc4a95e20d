"""A mirror of images that means harm, before a real server: nothing it serves comes into Incus.

The server is a process of its own, the mirror is on loopback; Incus is a fake that counts what it
is given. What each attack needs of the code is tested in tests/deploy/test_attacks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from aiohttp import web as aioweb

from tests.deploy.test_attacks import BY_SERVING, Attack, uploads
from tests.deploy.test_download import Released
from tests.deploy.world import IMAGE_PRINT, Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tests.fakes.hostile import EVIL, assert_harmless
from tests.fakes.mirror import Mirror

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
WITHIN = 60.0
ENDED = ("succeeded", "failed", "cancelled")
Answer = Callable[[aioweb.Request], Awaitable[aioweb.StreamResponse]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="taos-attack-") as name:
        yield Path(name)


@pytest.fixture
async def fake(folder: Path) -> AsyncIterator[FakeIncus]:
    """An Incus with a pool and a bridge."""
    async with FakeIncus(folder / "incus.sock") as running:
        yield running


@dataclass
class Server:
    """A server that takes its images from a mirror."""

    folder: Path
    environment: dict[str, str]
    http: httpx.AsyncClient

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    async def download(self, is_enough: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Have the image fetched; the job when it has ended. It is cancelled when it is enough."""
        begun = await self.http.post("/api/images/openclaw/download")
        job: dict[str, Any] = begun.json()["job"]
        until = time.monotonic() + WITHIN
        is_cancelled = False
        while job["state"] not in ENDED:
            assert time.monotonic() < until, job
            if is_enough() and not is_cancelled:
                await self.http.post(f"/api/jobs/{job['id']}/cancel")
                is_cancelled = True
            await asyncio.sleep(0.05)
            job = (await self.http.get(f"/api/jobs/{job['id']}")).json()
        return job

    async def command(self, *argv: str) -> str:
        """What the command line says."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tinyagentos.cli", *argv, cwd=ROOT, env=self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return out.decode()


@contextlib.asynccontextmanager
async def server(folder: Path, fake: FakeIncus, root: Path, url: str) -> AsyncIterator[Server]:
    """The server's process, until the test is over."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT), "TAOS_DATA_DIR": str(folder), "TAOS_RUN_DIR": str(folder),
        "TAOS_INCUS_SOCKET": str(fake.socket), "TAOS_PORT": "0", "TAOS_IMAGE_CHANNEL": url,
        "TAOS_IMAGE_ROOT": str(root), "TAOS_IMAGE_STALL": "0.5", "TAOS_IMAGE_POLICY": "manual",
        "TAOS_CACHE_DIR": str(folder / "cache"), "NO_PROXY": "*",
    }  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tinyagentos.cli", "serve", cwd=ROOT, env=environment,
            stdout=log, stderr=log,
        )  # fmt: skip
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "taos.sock"))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://taos") as http:
            made = Server(folder, environment, http)
            until = time.monotonic() + WITHIN
            while "taOS serves on" not in made.log:
                assert time.monotonic() < until, made.log
                await asyncio.sleep(0.05)
            yield made
    finally:
        process.terminate()
        await process.wait()


async def assert_refused(
    taos: Server,
    fake: FakeIncus,
    used: str = IMAGE_PRINT,
    is_enough: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The download fails in words, Incus saw no byte of it, and the image in use stays.

    is_enough: whether to cancel, as a mirror that fails to answer is asked again for minutes.
    """
    before = len(uploads(fake))
    job = await taos.download(is_enough)
    if job["state"] != "cancelled" or not is_enough():
        assert job["state"] == "failed", job
        assert job["error"]["code"] in ("untrusted", "unavailable", "not_found"), job["error"]
    assert len(uploads(fake)) == before
    [alias] = set(fake.project().aliases.values())
    assert alias == used
    assert "Traceback" not in taos.log, taos.log
    return job


async def test_what_is_not_as_signed_is_refused(
    folder: Path,
    fake: FakeIncus,
    tmp_path: Path,
) -> None:
    """A changed byte, a key of the mirror's own, mixed releases, an endless file, a path: each."""
    with_image(fake)
    released = Released(tmp_path)
    async with Mirror({}) as web, server(folder, fake, released.root, web.url) as taos:
        for number, attack in enumerate(BY_SERVING):
            (tmp_path / str(number)).mkdir()
            web.files = dict(released.files)
            place = SimpleNamespace(folder=tmp_path / str(number))
            cast(Attack, attack)(web, released, cast(Taos, place))
            await assert_refused(taos, fake)
    assert not [one for one in folder.rglob("*") if one.name in ("etc", "passwd")]


async def test_no_older_release_and_no_frozen_one(
    folder: Path,
    fake: FakeIncus,
    tmp_path: Path,
) -> None:
    released = Released(tmp_path)
    old = dict(released.files)
    released.channel.show(released.target)
    newest = dict(released.files)
    async with Mirror(newest) as web, server(folder, fake, released.root, web.url) as taos:
        assert (await taos.download())["state"] == "succeeded"
        used = released.target.fingerprint
        for files in (old, newest | {"timestamp.json": old["timestamp.json"]}):
            web.files = dict(files)
            job = await assert_refused(taos, fake, used)
            assert job["error"]["code"] == "untrusted"


async def slow(request: aioweb.Request) -> aioweb.StreamResponse:
    """No byte of a body."""
    response = aioweb.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await asyncio.sleep(WITHIN)
    return response


async def around(request: aioweb.Request) -> aioweb.StreamResponse:
    raise aioweb.HTTPFound(request.path)


def elsewhere(where: str) -> Answer:
    async def answer(request: aioweb.Request) -> aioweb.StreamResponse:
        return aioweb.Response(status=302, headers={"Location": where})

    return answer


async def wild_words(request: aioweb.Request) -> aioweb.StreamResponse:
    words = "\x1b]0;owned\x07\x9b\u202e"
    return aioweb.Response(status=503, reason="\x1b[2J", text=words, headers={"X": "\x1b]0;x\x07"})


async def wild_ranges(request: aioweb.Request) -> aioweb.StreamResponse:
    headers = {"Content-Range": f"bytes 0-1/{'9' * 6000}"}
    return aioweb.Response(status=206, body=b"no image", headers=headers)


async def wild_length(request: aioweb.Request) -> aioweb.StreamResponse:
    return aioweb.Response(status=206, body=b"x", headers={"Content-Range": "bytes 0-1/²"})


ASTRAY = ("file:///etc/passwd", "http://[", "gopher://127.0.0.1/", "/../../etc/passwd")
ANSWERS = (slow, around, wild_words, wild_ranges, wild_length, *map(elsewhere, ASTRAY))
# What a channel's small files are asked with; of an image the server asks for parts, too.
OF_CHANNEL = (around, wild_words, *map(elsewhere, ASTRAY))


async def test_a_mirror_that_leads_astray_or_stalls(
    folder: Path, fake: FakeIncus, tmp_path: Path
) -> None:
    with_image(fake)
    released = Released(tmp_path)
    now: tuple[str, Answer] = "", around
    asked_at = 0.0

    async def serve(request: aioweb.Request) -> aioweb.StreamResponse:
        nonlocal asked_at
        asked = request.match_info["name"]
        name, answer = now
        if asked == name:
            asked_at = asked_at or time.monotonic()
            return await answer(request)
        content = released.files.get(asked)
        return aioweb.Response(status=404) if content is None else aioweb.Response(body=content)

    def is_enough() -> bool:
        return 0 < asked_at < time.monotonic() - 1

    app = aioweb.Application()
    app.router.add_get("/{name:.*}", serve)
    runner = aioweb.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await aioweb.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    image = released.target.file_name
    async with server(folder, fake, released.root, url) as taos:
        for attack in (
            *((image, one) for one in ANSWERS), *(("timestamp.json", one) for one in OF_CHANNEL)
        ):  # fmt: skip
            now, asked_at = attack, 0.0
            job = await assert_refused(taos, fake, is_enough=is_enough)
            assert asked_at
            assert_harmless(json.dumps(job, ensure_ascii=False))
        assert_harmless(await taos.command("job", "show", job["id"]))
        assert_harmless(taos.log)
    await runner.cleanup()


async def test_a_signed_name_with_escapes_does_not_steer_the_terminal(
    folder: Path,
    fake: FakeIncus,
    tmp_path: Path,
) -> None:
    """Even the publisher's own words are another's."""
    with_image(fake)
    released = Released(tmp_path)
    web = Mirror(released.files | {"timestamp.json": EVIL.encode()})
    async with web, server(folder, fake, released.root, web.url) as taos:
        job = await assert_refused(taos, fake)
        for argv in (("job", "show", job["id"]), ("image", "list"), ("job", "list")):
            assert_harmless(await taos.command(*argv))
