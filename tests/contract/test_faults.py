"""What the client does when Incus fails, hangs, restarts or is left: on the fake alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.fake_incus import FakeIncus
from tests.fakes.fixtures import eventually
from tests.fakes.tiny_image import TinyImage
from tinyagentos.incus import (
    Event,
    Forbidden,
    Incus,
    IncusTimeout,
    IncusUnreachable,
    InstanceRequest,
    NoSpace,
    OperationCancelled,
    OperationLost,
    Resync,
)
from tinyagentos.incus.operations import Api

EMPTY = InstanceRequest("x")


@pytest.fixture
async def incus(fake_incus: FakeIncus) -> AsyncIterator[Incus]:
    """A client of the fake that soon gives up."""
    async with Incus.unix(fake_incus.socket, project="taos", within=0.5, stall=0.5) as client:
        yield client


class TestUnreachable:
    async def test_no_daemon(self, tmp_path: Path) -> None:
        async with Incus.unix(tmp_path / "none.sock") as incus:
            with pytest.raises(IncusUnreachable):
                await incus.server()

    async def test_making_a_client_needs_nothing(self, tmp_path: Path) -> None:
        incus = Incus.https("https://192.0.2.1:8443", "c", "k", fingerprint="0" * 64)
        assert incus.with_project("other").transport is incus.transport

    async def test_a_daemon_that_hangs(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.stall_next("GET /1.0")
        with pytest.raises(IncusUnreachable, match=r"within 0\.2 s"):
            await incus.server(within=0.2)
        assert (await incus.server()).is_trusted

    async def test_the_callers_own_deadline_stays_the_callers(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        fake_incus.stall_next("GET /1.0")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await incus.server()

    async def test_an_upload_that_stalls(self, incus: Incus) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.sleep(60)

        with pytest.raises(IncusUnreachable, match="no bytes"):
            await incus.images.add(chunks(), expect="0" * 64, stall=0.2)

    async def test_a_slow_upload_is_no_stall(self, incus: Incus, tiny_image: TinyImage) -> None:
        content = tiny_image.path.read_bytes()
        half = len(content) // 2

        async def chunks() -> AsyncIterator[bytes]:
            for piece in (content[:half], content[half:], b"", b""):
                await asyncio.sleep(0.2)
                yield piece

        await incus.images.add(chunks(), expect=tiny_image.fingerprint, stall=0.4)


class TestErrors:
    async def test_a_full_disk_said_at_once(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.fail_next("POST /1.0/instances", 500, "write: no space left on device")
        with pytest.raises(NoSpace) as caught:
            await incus.instances.create(EMPTY)
        assert (caught.value.code, caught.value.sentence) == (500, "write: no space left on device")

    async def test_a_full_disk_found_while_working(
        self, fake_incus: FakeIncus, incus: Incus, tiny_image: TinyImage
    ) -> None:
        fake_incus.fail_next("POST /1.0/images", 500, "Disk quota exceeded", in_work=True)
        with pytest.raises(NoSpace):
            await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)

    async def test_not_allowed(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.fail_next("GET /1.0/instances", 403, "User does not have permission")
        with pytest.raises(Forbidden):
            await incus.instances.list()

    async def test_a_daemon_that_shuts_down(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.fail_next("GET /1.0/instances", 503, "Daemon is shutting down")
        with pytest.raises(IncusUnreachable):
            await incus.instances.list()


class TestOperations:
    async def test_the_deadline(self, fake_incus: FakeIncus, incus: Incus) -> None:
        go = fake_incus.hold_next("POST /1.0/instances")
        asyncio.get_running_loop().call_later(1, go.set)
        with pytest.raises(IncusTimeout):
            await incus.instances.create(EMPTY, within=0.3)
        # It cannot be cancelled in Incus; the client came back when it was over.
        assert "x" in fake_incus.project().instances

    async def test_what_somebody_else_began_is_waited_for(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        """As a server does that finds the work of one that was killed."""
        await incus.settle("x", within=1)
        go = fake_incus.hold_next("POST /1.0/instances")
        begun = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "/wait"))
        await incus.settle("xy", within=1)  # of another instance
        waiting = asyncio.create_task(incus.settle("x", within=10))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        go.set()
        await waiting
        assert "x" in fake_incus.project().instances
        await begun

    async def test_work_that_does_not_end_is_not_waited_for_ever(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        go = fake_incus.hold_next("POST /1.0/instances")
        begun = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "/wait"))
        asyncio.get_running_loop().call_later(0.5, go.set)
        with pytest.raises(IncusTimeout):
            await incus.settle("x", within=0.2)
        await begun

    async def test_longer_than_a_slice(self, fake_incus: FakeIncus, incus: Incus) -> None:
        go = fake_incus.hold_next("POST /1.0/instances")
        asyncio.get_running_loop().call_later(1.2, go.set)
        api = Api(incus.transport, "taos", slice_seconds=0.1)
        await api.run("POST", "/1.0/instances", EMPTY.body(False))
        waits = [call for call in fake_incus.calls if call.endswith("/wait")]
        assert len(waits) == 2

    async def test_a_caller_that_goes_leaves_nothing_moving(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        go = fake_incus.hold_next("POST /1.0/instances")
        task = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "/wait"))
        task.cancel()
        await eventually(lambda: called(fake_incus, "DELETE /1.0/operations/"))
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "x" in fake_incus.project().instances

    async def test_a_caller_that_goes_before_the_answer(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        fake_incus.stall_next("POST /1.0/instances", 0.2)
        task = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "POST /1.0/instances"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "x" in fake_incus.project().instances
        assert await called(fake_incus, "/wait")

    async def test_cancelled_by_somebody_else(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.hold_next("POST /1.0/instances")
        task = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "/wait"))
        for operation in fake_incus.operations.values():
            assert operation.task
            operation.task.cancel()
        with pytest.raises(OperationCancelled):
            await task

    async def test_a_restart_before_the_work_began(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        fake_incus.hold_next("POST /1.0/instances")
        task = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "/wait"))
        await fake_incus.restart()
        with pytest.raises(OperationLost):
            await task

    async def test_a_restart_after_the_work_was_done(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        fake_incus.hold_next("POST /1.0/instances")
        task = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "/wait"))
        fake_incus.create_instance(fake_incus.project(), dict(EMPTY.body(False)))
        await fake_incus.restart()
        assert (await task).name == "x"

    async def test_a_daemon_away_for_a_moment(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.hold_next("POST /1.0/instances")
        task = asyncio.create_task(incus.instances.create(EMPTY))
        await eventually(lambda: called(fake_incus, "/wait"))
        await fake_incus.stop()
        await asyncio.sleep(0.3)
        fake_incus.create_instance(fake_incus.project(), dict(EMPTY.body(False)))
        await fake_incus.start()
        assert (await task).name == "x"

    async def test_a_daemon_away_for_good(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.hold_next("POST /1.0/instances")
        task = asyncio.create_task(incus.instances.create(EMPTY, within=0.8))
        await eventually(lambda: called(fake_incus, "/wait"))
        await fake_incus.stop()
        with pytest.raises(IncusUnreachable):
            await task


class TestRemoteImages:
    async def test_progress_is_told_and_counts_against_the_stall(
        self, fake_incus: FakeIncus, incus: Incus
    ) -> None:
        fake_incus.remote_images["debian/13"] = {"fingerprint": "f" * 64}
        go = fake_incus.hold_next("POST /1.0/images")
        told: list[str] = []
        task = asyncio.create_task(
            incus.images.copy_from_remote(
                "https://images.example", "debian/13", stall=2.5, on_progress=told.append
            )
        )
        await eventually(lambda: called(fake_incus, "/wait"))
        (operation,) = fake_incus.operations.values()
        began = time.monotonic()
        for percent in (10, 50, 90):
            operation.metadata = {"download_progress": f"rootfs: {percent}%"}
            await eventually(lambda percent=percent: last_is(told, f"rootfs: {percent}%"))
        assert time.monotonic() - began > 2.5
        go.set()
        assert await task == "f" * 64

    async def test_a_copy_that_stalls(self, fake_incus: FakeIncus, incus: Incus) -> None:
        fake_incus.remote_images["debian/13"] = {"fingerprint": "f" * 64}
        go = fake_incus.hold_next("POST /1.0/images")
        asyncio.get_running_loop().call_later(1.5, go.set)
        with pytest.raises(IncusTimeout):
            await incus.images.copy_from_remote("https://images.example", "debian/13", stall=0.2)


class TestEvents:
    async def test_a_lost_connection_is_a_resync(self, fake_incus: FakeIncus, incus: Incus) -> None:
        events = incus.events()
        async with contextlib.aclosing(events), asyncio.timeout(5):  # type: ignore[type-var]
            assert await anext(events) == Resync()
            await incus.instances.create(EMPTY)
            seen = [await anext(events) for _ in range(3)]
            actions = {event.action for event in seen if isinstance(event, Event)}
            assert actions == {"Running", "instance-created", "Success"}
            fake_incus.drop_events()
            assert await anext(events) == Resync()
            await fake_incus.restart()
            assert await anext(events) == Resync()

    async def test_of_one_project_or_all(self, fake_incus: FakeIncus, incus: Incus) -> None:
        mine, everything = incus.events(), incus.events(all_projects=True)
        assert [await anext(mine), await anext(everything)] == [Resync(), Resync()]
        fake_incus.emit("default", "image-created", "/1.0/images/a")
        fake_incus.emit("taos", "image-created", "/1.0/images/b")
        for events, name in ((mine, "b"), (everything, "a")):
            event = await anext(events)
            assert isinstance(event, Event)
            assert event.name == name


class TestTls:
    @pytest.fixture
    async def url(self, fake_incus: FakeIncus, tmp_path: Path) -> str:
        for name in ("server", "client"):
            make_certificate(tmp_path, name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
        context.load_verify_locations(tmp_path / "client.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        return await fake_incus.listen_tls(context)

    async def test_pinned_by_certificate(self, url: str, tmp_path: Path) -> None:
        client = tmp_path / "client.crt", tmp_path / "client.key"
        async with Incus.https(url, *client, server_cert=tmp_path / "server.crt") as incus:
            assert (await incus.server()).is_trusted

    async def test_another_server(self, url: str, tmp_path: Path) -> None:
        client = tmp_path / "client.crt", tmp_path / "client.key"
        async with Incus.https(url, *client, server_cert=tmp_path / "client.crt") as incus:
            with pytest.raises(Forbidden):
                await incus.server()

    async def test_pinned_by_fingerprint(self, url: str, tmp_path: Path) -> None:
        client = tmp_path / "client.crt", tmp_path / "client.key"
        pem = (tmp_path / "server.crt").read_text()
        pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        async with Incus.https(url, *client, fingerprint=pin) as incus:
            assert (await incus.server()).is_trusted
        async with Incus.https(url, *client, fingerprint="0" * 64) as incus:
            with pytest.raises(Forbidden):
                await incus.server()


async def called(fake: FakeIncus, words: str) -> bool:
    return any(words in call for call in fake.calls)


async def last_is(told: list[str], words: str) -> bool:
    return told[-1:] == [words]


def make_certificate(folder: Path, name: str) -> None:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"]
    files = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"]
    argv = ["openssl", "req", "-x509", *curve, *files, "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(argv, check=True, capture_output=True)
