"""What taOS relies on about the daemon: projects, storage, networks, operations, events."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import pytest

from tests.fakes.fixtures import Backend
from tests.fakes.tiny_image import TinyImage
from tinyagentos.incus import (
    AclRule,
    AlreadyExists,
    Event,
    IncusError,
    InstanceRequest,
    NotFound,
    OperationLost,
    Resync,
)
from tinyagentos.incus.operations import Operation


class TestServer:
    async def test_what_it_is(self, backend: Backend) -> None:
        server = await backend.incus.server()
        assert server.is_trusted
        assert server.version
        assert "dir" in server.storage_drivers
        assert server.has_extension("instances_rebuild")
        assert not await backend.incus.has_extension("none")


class TestProjects:
    async def test_ensured_twice_is_ensured_once(self, backend: Backend) -> None:
        projects, name = backend.incus.projects, backend.incus.project
        before = await projects.get(name)
        await projects.ensure(name, {"user.taos.a": "1"})
        project = await projects.ensure(name, {"user.taos.a": "2"})
        assert project.config == {**before.config, "user.taos.a": "2"}
        assert project.description == before.description
        assert name in {one.name for one in await projects.list()}
        assert await projects.find("none") is None

    async def test_a_project_in_use_stays(self, backend: Backend) -> None:
        await backend.incus.storage.create_volume(backend.pool, "v")
        with pytest.raises(IncusError):
            await backend.incus.projects.delete(backend.incus.project)


class TestProfiles:
    async def test_ensured_twice_is_ensured_once(self, backend: Backend) -> None:
        profiles = backend.incus.profiles
        root = {"root": {"type": "disk", "path": "/", "pool": backend.pool}}
        await profiles.ensure("agent", config={"limits.cpu": "1"}, devices=root)
        made = await profiles.ensure("agent", config={"limits.cpu": "2"}, devices=root)
        assert (dict(made.config), made.devices) == ({"limits.cpu": "2"}, root)
        await profiles.delete("agent")
        with pytest.raises(NotFound):
            await profiles.get("agent")


class TestStorage:
    async def test_a_pool_tells_its_driver_and_its_room(self, backend: Backend) -> None:
        pool = await backend.incus.storage.get_pool(backend.pool)
        room = await backend.incus.storage.get_resources(backend.pool)
        assert pool.driver in {"btrfs", "zfs", "dir", "lvm"}
        assert 0 < room.free_bytes <= room.total_bytes
        assert await backend.incus.storage.find_pool("none") is None

    async def test_a_changed_pool_keeps_its_other_keys(self, backend: Backend) -> None:
        storage, before = backend.incus.storage, await backend.incus.storage.get_pool(backend.pool)
        await storage.update_pool(backend.pool, config={"user.taos.test": "1"})
        changed = await storage.get_pool(backend.pool)
        assert changed.config == {**before.config, "user.taos.test": "1"}
        await storage.update_pool(backend.pool, config={"user.taos.test": ""})
        assert (await storage.get_pool(backend.pool)).config == before.config

    async def test_a_volume_and_its_snapshots(self, backend: Backend) -> None:
        storage, pool = backend.incus.storage, backend.pool
        assert await storage.find_volume(pool, "v") is None
        made = await storage.create_volume(
            pool, "v", config={"user.taos.agent": "x"}, description="d"
        )
        assert (made.name, made.description, made.used_by) == ("v", "d", ())
        with pytest.raises(AlreadyExists):
            await storage.create_volume(pool, "v")
        await storage.update_volume(pool, "v", config={"user.b": "1"})
        (listed,) = await storage.list_volumes(pool)
        assert (listed.config["user.taos.agent"], listed.config["user.b"]) == ("x", "1")
        assert listed.description == "d"
        with pytest.raises(NotFound):
            await storage.get_volume_usage(pool, "none")
        await storage.create_volume_snapshot(pool, "v", "s")
        assert [one.name for one in await storage.list_volume_snapshots(pool, "v")] == ["s"]
        await storage.restore_volume_snapshot(pool, "v", "s")
        assert await storage.get_volume_usage(pool, "v") >= 0
        await storage.delete_volume_snapshot(pool, "v", "s")
        await storage.delete_volume(pool, "v")
        with pytest.raises(NotFound):
            await storage.delete_volume(pool, "v")

    @pytest.mark.parametrize(
        ("then", "now", "after"), [(64, 64, 64), (64, 96, 96), (96, 64, 96), (0, 64, 0), (64, 0, 0)]
    )
    async def test_a_snapshot_that_comes_back_fits_its_limit(
        self, backend: Backend, then: int, now: int, after: int
    ) -> None:
        storage, pool = backend.incus.storage, backend.pool
        driver = (await storage.get_pool(pool)).driver
        assert driver in ("btrfs", "zfs"), "the host needs the pool that `taos setup` makes"
        size = {mib: str(mib << 20) if mib else "" for mib in (then, now, after)}
        await storage.create_volume(pool, "v")
        await storage.update_volume(pool, "v", config={"size": size[then]})
        await storage.create_volume_snapshot(pool, "v", "s")
        await storage.update_volume(pool, "v", config={"size": size[now]})
        await storage.restore_volume_snapshot(pool, "v", "s")
        volume = await storage.get_volume(pool, "v")
        assert volume.config.get("size", "") == size[after]
        await storage.delete_volume(pool, "v")


class TestNetworks:
    async def test_a_bridge_with_rules(self, backend: Backend) -> None:
        networks, name = backend.incus.networks, f"tt{secrets.token_hex(4)}"
        reject = AclRule(action="reject", destination="10.0.0.0/8")
        allow = AclRule(action="allow", protocol="tcp", destination_port="443")
        await networks.create_acl(name, egress=[reject], description="d")
        try:
            await networks.update_acl(name, egress=[reject, allow], description="d")
            acl = await networks.find_acl(name)
            assert acl is not None
            assert (acl.egress, acl.ingress, acl.description) == ((reject, allow), (), "d")
            with pytest.raises(AlreadyExists):
                await networks.create_acl(name)
            config = {"ipv4.address": "10.219.7.1/24", "ipv4.nat": "false", "ipv6.address": "none"}
            made = await networks.create(name, config=config, description="d")
            assert (made.managed, made.type, made.config["ipv4.address"]) == (
                True,
                "bridge",
                "10.219.7.1/24",
            )
            with pytest.raises(AlreadyExists):
                await networks.create(name)
            await networks.update(name, config={"user.a": "1", "ipv4.nat": ""})
            changed = await networks.get(name)
            assert (changed.config["user.a"], changed.description) == ("1", "d")
            assert "ipv4.nat" not in changed.config
            assert "10.219.7.1" in (await networks.state(name)).addresses
            assert await networks.leases(name) == ()
            assert name in {one.name for one in await networks.list()}
        finally:
            with contextlib.suppress(NotFound):
                await networks.delete(name)
            await networks.delete_acl(name)
        assert await networks.find(name) is None

    async def test_what_is_not_there(self, backend: Backend) -> None:
        assert await backend.incus.networks.find("none") is None
        assert await backend.incus.networks.find_acl("none") is None
        with pytest.raises(NotFound):
            await backend.incus.networks.state("none")


class TestOperations:
    async def test_one_that_is_not_there_is_lost(self, backend: Backend) -> None:
        api = backend.incus.instances.api
        unknown = Operation("0" * 36, "Gone", "Running", 103, False, "", {}, {})
        with pytest.raises(OperationLost):
            await api.wait(unknown)


class TestEvents:
    async def test_first_a_resync_then_what_happens(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        incus = backend.incus
        await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await incus.instances.create(InstanceRequest("x", image=tiny_image.fingerprint))
        events = incus.events(types=("lifecycle",))
        assert await anext(events) == Resync()
        await incus.instances.start("x")
        async with asyncio.timeout(10):
            event = await anext(events)
            while not isinstance(event, Event) or event.action != "instance-started":
                event = await anext(events)
        assert (event.type, event.name, event.project) == ("lifecycle", "x", incus.project)
        assert event.timestamp is not None
