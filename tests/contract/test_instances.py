"""What taOS relies on about instances and their files, on both backends."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.fakes.fixtures import Backend, eventually
from tests.fakes.tiny_image import TinyImage, build_unified, serve
from tinyagentos.incus import (
    AlreadyExists,
    IncusError,
    Instance,
    InstanceRequest,
    NotFound,
    PreconditionFailed,
)


async def create(
    backend: Backend, image: TinyImage, *, name: str = "x", start: bool = False
) -> Instance:
    await backend.incus.images.add(image.path, expect=image.fingerprint)
    return await backend.incus.instances.create(
        InstanceRequest(name, image=image.fingerprint), start=start
    )


class TestCreate:
    async def test_all_that_was_asked_for(self, backend: Backend, tiny_image: TinyImage) -> None:
        incus = backend.incus
        await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await incus.storage.create_volume(backend.pool, "x-state")
        state = {"type": "disk", "pool": backend.pool, "source": "x-state", "path": "/state"}
        request = InstanceRequest(
            "x",
            image=tiny_image.fingerprint,
            config={"user.taos.agent": "x", "limits.memory": "64MiB"},
            devices={"state": state},
            description="an agent",
        )
        made = await incus.instances.create(request, start=True)
        assert made == await incus.instances.get("x")
        assert (made.name, made.status, made.is_running) == ("x", "Running", True)
        assert (made.description, made.type) == ("an agent", "container")
        assert made.config["user.taos.agent"] == "x"
        assert made.config["volatile.base_image"] == tiny_image.fingerprint
        assert dict(made.devices) == {"state": state}
        assert set(made.expanded_devices) >= {"root", "state"}
        assert made.created_at is not None
        assert [one.name for one in await incus.instances.list()] == ["x"]
        volume = await incus.storage.get_volume(backend.pool, "x-state")
        assert len(volume.used_by) == 1

    async def test_a_taken_name(self, backend: Backend, tiny_image: TinyImage) -> None:
        await create(backend, tiny_image)
        with pytest.raises(AlreadyExists):
            await create(backend, tiny_image)

    async def test_a_missing_image(self, backend: Backend) -> None:
        with pytest.raises(NotFound):
            await backend.incus.instances.create(InstanceRequest("x", alias="none"))
        assert await backend.incus.instances.find("x") is None

    async def test_a_missing_volume(self, backend: Backend, tiny_image: TinyImage) -> None:
        await backend.incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
        state = {"type": "disk", "pool": backend.pool, "source": "none", "path": "/state"}
        request = InstanceRequest("x", image=tiny_image.fingerprint, devices={"state": state})
        with pytest.raises(NotFound):
            await backend.incus.instances.create(request)
        assert await backend.incus.instances.find("x") is None

    async def test_a_copy(self, backend: Backend, tiny_image: TinyImage) -> None:
        await create(backend, tiny_image)
        await backend.incus.files.push("x", "/root/mark", b"1")
        await backend.incus.instances.create(InstanceRequest("y", copy_of="x"))
        assert (await backend.incus.files.pull("y", "/root/mark")).content == b"1"


class TestLife:
    async def test_start_and_stop_twice_are_start_and_stop_once(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        instances = backend.incus.instances
        await create(backend, tiny_image)
        for _ in range(2):
            await instances.start("x")
        state = await instances.state("x")
        assert (state.status, state.pid > 0, state.processes > 0) == ("Running", True, True)
        assert state.started_at is not None
        assert "127.0.0.1" in {address.address for address in state.addresses}
        await instances.restart("x", force=True)
        for _ in range(2):
            await instances.stop("x", force=True)
        state = await instances.state("x")
        assert (state.status, state.pid, state.started_at) == ("Stopped", 0, None)

    async def test_a_clean_stop(self, backend: Backend, tiny_image: TinyImage) -> None:
        await create(backend, tiny_image, start=True)
        await backend.incus.instances.stop("x", timeout=10)
        assert not (await backend.incus.instances.get("x")).is_running

    async def test_a_running_instance_is_deleted_only_by_force(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        instances = backend.incus.instances
        await create(backend, tiny_image, start=True)
        with pytest.raises(IncusError):
            await instances.delete("x")
        await instances.delete("x", force=True)
        assert await instances.find("x") is None
        with pytest.raises(NotFound):
            await instances.delete("x")

    async def test_what_is_not_there(self, backend: Backend) -> None:
        instances = backend.incus.instances
        for call in (
            instances.get("none"),
            instances.start("none"),
            instances.stop("none"),
            instances.state("none"),
            instances.exec("none", ["true"]),
            instances.create_snapshot("none", "s"),
            instances.update("none", config={"user.a": "1"}),
            backend.incus.files.pull("none", "/etc/passwd"),
        ):
            with pytest.raises(NotFound):
                await call

    async def test_a_new_name(self, backend: Backend, tiny_image: TinyImage) -> None:
        await create(backend, tiny_image)
        await create(backend, tiny_image, name="y")
        with pytest.raises(AlreadyExists):
            await backend.incus.instances.rename("x", "y")
        await backend.incus.instances.rename("x", "z")
        assert await backend.incus.instances.find("x") is None
        assert await backend.incus.instances.find("z") is not None

    async def test_a_new_root(
        self, backend: Backend, tiny_image: TinyImage, tmp_path: Path
    ) -> None:
        newer = build_unified(tmp_path / "newer.tar.gz", properties={"serial": "2"})
        await backend.incus.images.add(newer.path, expect=newer.fingerprint)
        await create(backend, tiny_image)
        await backend.incus.instances.update("x", config={"user.kept": "1"})
        await backend.incus.instances.rebuild("x", image=newer.fingerprint)
        rebuilt = await backend.incus.instances.get("x")
        assert rebuilt.config["volatile.base_image"] == newer.fingerprint
        assert rebuilt.config["user.kept"] == "1"

    async def test_logs_are_readable(self, backend: Backend, tiny_image: TinyImage) -> None:
        await create(backend, tiny_image, start=True)
        assert "lxc.log" in await backend.incus.instances.list_logs("x")
        assert isinstance(await backend.incus.instances.log("x"), bytes)
        assert isinstance(await backend.incus.instances.console_log("x"), bytes)


class TestUpdate:
    async def test_other_keys_stay_and_an_empty_one_goes(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        instances = backend.incus.instances
        await create(backend, tiny_image)
        await instances.update("x", config={"user.a": "1", "user.b": "1"}, description="d")
        await instances.update("x", config={"user.a": "", "user.c": "1"})
        found = await instances.get("x")
        user = {key for key in found.config if key.startswith("user.")}
        assert (user, found.description) == ({"user.b", "user.c"}, "d")

    @pytest.mark.parametrize(("cpus", "left"), [("1", "1"), ("0-0", "0-0"), ("", None)])
    async def test_processors_beside_other_keys(
        self, backend: Backend, tiny_image: TinyImage, cpus: str, left: str | None
    ) -> None:
        await create(backend, tiny_image)
        instances = backend.incus.instances
        await instances.update("x", config={"limits.cpu": "2"})
        wanted = {"limits.cpu": cpus, "user.a": "1"}
        etag = (await instances.get("x")).etag
        await instances.update("x", config=wanted, etag=etag)
        changed = (await instances.get("x")).config
        assert (changed.get("limits.cpu"), changed["user.a"]) == (left, "1")
        with pytest.raises(PreconditionFailed):
            await instances.update("x", config=wanted, etag=etag)

    async def test_only_the_version_that_was_read(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        instances = backend.incus.instances
        read = await create(backend, tiny_image)
        await instances.update("x", config={"user.owner": "first"}, etag=read.etag)
        with pytest.raises(PreconditionFailed):
            await instances.update("x", config={"user.owner": "second"}, etag=read.etag)
        assert (await instances.get("x")).config["user.owner"] == "first"

    async def test_a_device_comes_and_goes(self, backend: Backend, tiny_image: TinyImage) -> None:
        incus = backend.incus
        await create(backend, tiny_image)
        await incus.storage.create_volume(backend.pool, "v")
        device = {"type": "disk", "pool": backend.pool, "source": "v", "path": "/v"}
        await incus.instances.update("x", devices={"v": device})
        with pytest.raises(IncusError):
            await incus.storage.delete_volume(backend.pool, "v")
        await incus.instances.remove_device("x", "v")
        assert "v" not in (await incus.instances.get("x")).expanded_devices
        await incus.storage.delete_volume(backend.pool, "v")


class TestSnapshots:
    async def test_going_back(self, backend: Backend, tiny_image: TinyImage) -> None:
        incus = backend.incus
        await create(backend, tiny_image)
        await incus.files.push("x", "/root/mark", b"before")
        await incus.instances.create_snapshot("x", "s")
        with pytest.raises(AlreadyExists):
            await incus.instances.create_snapshot("x", "s")
        await incus.files.push("x", "/root/mark", b"after")
        await incus.instances.restore_snapshot("x", "s")
        assert (await incus.files.pull("x", "/root/mark")).content == b"before"
        (snapshot,) = await incus.instances.list_snapshots("x")
        assert (snapshot.name, snapshot.created_at is not None) == ("s", True)
        await incus.instances.delete_snapshot("x", "s")
        with pytest.raises(NotFound):
            await incus.instances.delete_snapshot("x", "s")


class TestFiles:
    async def test_owner_mode_and_content(self, backend: Backend, tiny_image: TinyImage) -> None:
        files = backend.incus.files
        await create(backend, tiny_image)
        await files.push("x", "/root/a b", b"secret", uid=7, gid=8, mode=0o600)
        await files.push("x", "/root/a b", b"new", uid=7, gid=8, mode=0o600)
        pulled = await files.pull("x", "/root/a b")
        assert (pulled.content, pulled.type) == (b"new", "file")
        assert (pulled.uid, pulled.gid, pulled.mode) == (7, 8, 0o600)
        await files.delete("x", "/root/a b")
        with pytest.raises(NotFound):
            await files.pull("x", "/root/a b")
        with pytest.raises(NotFound):
            await files.delete("x", "/root/a b")

    async def test_folders_and_links(self, backend: Backend, tiny_image: TinyImage) -> None:
        files = backend.incus.files
        await create(backend, tiny_image)
        await files.push("x", "/srv", type="directory", mode=0o755)
        await files.push("x", "/srv/link", b"/etc/passwd", type="symlink")
        folder, link = await files.pull("x", "/srv"), await files.pull("x", "/srv/link")
        assert (folder.type, folder.content) == ("directory", b"link")
        assert (link.type, link.content) == ("symlink", b"/etc/passwd")
        with pytest.raises(NotFound):
            await files.push("x", "/nope/file", b"")


class TestProxy:
    async def test_an_agent_answers_through_its_socket(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        image = build_unified(tmp_path / "serves.tar.gz", services=serve(18789))
        await backend.incus.images.add(image.path, expect=image.fingerprint)
        socket = tmp_path / "agent.sock"
        proxy = {
            "type": "proxy",
            "bind": "host",
            "listen": f"unix:{socket}",
            "connect": "tcp:127.0.0.1:18789",
        }
        request = InstanceRequest("x", image=image.fingerprint, devices={"agent": proxy})
        await backend.incus.instances.create(request, start=True)

        async def ready() -> bool:
            connector = aiohttp.UnixConnector(str(socket))
            async with aiohttp.ClientSession("http://agent", connector=connector) as session:
                try:
                    async with session.get("/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

        await eventually(ready)
        await backend.incus.instances.restart("x", force=True)
        await eventually(ready)
        await backend.incus.instances.delete("x", force=True)
        # Incus may leave the socket's file behind: only whoever calls there knows.
        assert not await ready()
