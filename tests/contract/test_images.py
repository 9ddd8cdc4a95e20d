"""What taOS relies on about images, on both backends."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.fixtures import Backend
from tests.fakes.tiny_image import TinyImage, build_split, build_unified
from tinyagentos.incus import (
    AlreadyExists,
    FingerprintMismatch,
    InstanceRequest,
    NotFound,
    OperationFailed,
)

NOWHERE = "0" * 64


class TestAliases:
    async def test_a_missing_alias_is_none(self, backend: Backend) -> None:
        assert await backend.incus.images.find_alias("taos/none") is None

    async def test_an_alias_with_a_slash_is_found_exactly(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        images = backend.incus.images
        await images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await images.create_alias("taos/openclaw/x64", tiny_image.fingerprint)
        found = await images.find_alias("taos/openclaw/x64")
        assert found is not None
        assert found.target == tiny_image.fingerprint
        assert await images.find_alias("taos/openclaw") is None

    async def test_a_taken_alias_is_refused_and_can_be_moved(
        self, backend: Backend, tiny_image: TinyImage, tmp_path: Path
    ) -> None:
        images = backend.incus.images
        other = build_unified(tmp_path / "other.tar.gz", properties={"serial": "2"})
        for image in (tiny_image, other):
            await images.add(image.path, expect=image.fingerprint)
        await images.create_alias("a", tiny_image.fingerprint)
        with pytest.raises(AlreadyExists):
            await images.create_alias("a", other.fingerprint)
        await images.set_alias("a", other.fingerprint)
        assert (await images.get(other.fingerprint)).aliases == ("a",)
        await images.delete_alias("a")
        assert await images.list_aliases() == ()

    async def test_an_alias_cannot_stand_for_nothing(self, backend: Backend) -> None:
        with pytest.raises(NotFound):
            await backend.incus.images.set_alias("a", NOWHERE)


class TestAdd:
    async def test_a_unified_image_is_there_with_its_properties(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        sent: list[int] = []
        added = await backend.incus.images.add(
            tiny_image.path,
            expect=tiny_image.fingerprint,
            properties={"os": "tiny", "serial": "a b&c"},
            progress=sent.append,
        )
        image = await backend.incus.images.get(added)
        size = tiny_image.path.stat().st_size
        assert image.fingerprint == tiny_image.fingerprint
        assert (image.size, sent[-1]) == (size, size)
        assert (image.properties["os"], image.properties["serial"]) == ("tiny", "a b&c")
        assert image.architecture == "x86_64"
        assert not image.auto_update

    async def test_a_split_image_has_the_fingerprint_of_both_files(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        image = build_split(tmp_path)
        assert image.rootfs is not None
        added = await backend.incus.images.add_split(
            image.metadata, image.rootfs, expect=image.fingerprint
        )
        assert (await backend.incus.images.get(added)).properties["os"] == "tiny"

    async def test_other_bytes_than_announced_are_refused(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        with pytest.raises(FingerprintMismatch):
            await backend.incus.images.add(tiny_image.path, expect=NOWHERE)
        assert await backend.incus.images.list() == ()

    async def test_an_image_that_is_there_is_not_sent_again(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        images, sent = backend.incus.images, []
        await images.add(tiny_image.path, expect=tiny_image.fingerprint)
        again = await images.add(
            tiny_image.path, expect=tiny_image.fingerprint, progress=sent.append
        )
        assert (again, sent) == (tiny_image.fingerprint, [])

    async def test_an_image_that_arrived_meanwhile_is_success(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        images, content = backend.incus.images, tiny_image.path.read_bytes()

        async def chunks() -> AsyncIterator[bytes]:
            yield content[:1000]
            await images.add(tiny_image.path, expect=tiny_image.fingerprint)
            yield content[1000:]

        added = await images.add(chunks(), expect=tiny_image.fingerprint)
        assert added == tiny_image.fingerprint

    async def test_a_source_that_breaks_is_told_as_it_is(self, backend: Backend) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x" * 1000
            raise FileNotFoundError("the disk went away")

        with pytest.raises(FileNotFoundError):
            await backend.incus.images.add(chunks(), expect=NOWHERE)

    async def test_export_gives_the_same_bytes(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        await backend.incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
        digest = hashlib.sha256()
        async for chunk in backend.incus.images.export(tiny_image.fingerprint):
            digest.update(chunk)
        assert digest.hexdigest() == tiny_image.fingerprint


class TestChanges:
    async def test_properties_are_replaced_and_the_rest_stays(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        images = backend.incus.images
        await images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await images.update(tiny_image.fingerprint, properties={"serial": "7"})
        await images.update(tiny_image.fingerprint, auto_update=False)
        image = await images.get(tiny_image.fingerprint)
        assert dict(image.properties) == {"serial": "7"}

    async def test_deleting_takes_the_aliases_along(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        images = backend.incus.images
        await images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await images.create_alias("a", tiny_image.fingerprint)
        await images.delete(tiny_image.fingerprint)
        assert await images.find(tiny_image.fingerprint) is None
        assert await images.find_alias("a") is None
        with pytest.raises(NotFound):
            await images.delete(tiny_image.fingerprint)


class TestFromInstance:
    async def test_an_image_of_a_snapshot_of_a_running_instance(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        incus = backend.incus
        await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await incus.instances.create(InstanceRequest("x", image=tiny_image.fingerprint), start=True)
        await incus.files.push("x", "/root/built", b"yes")
        await incus.instances.create_snapshot("x", "built")
        made = await incus.images.from_instance(
            "x/built", compression="none", properties={"taos.version": "1"}, alias="made"
        )
        image = await incus.images.get(made)
        assert (image.aliases, image.properties["taos.version"]) == (("made",), "1")
        await incus.instances.create(InstanceRequest("y", alias="made"))
        assert (await incus.files.pull("y", "/root/built")).content == b"yes"

    async def test_a_running_instance_is_refused(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        incus = backend.incus
        await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await incus.instances.create(InstanceRequest("x", image=tiny_image.fingerprint), start=True)
        with pytest.raises(OperationFailed):
            await incus.images.from_instance("x")

    async def test_of_a_snapshot_that_is_not_there(
        self, backend: Backend, tiny_image: TinyImage
    ) -> None:
        incus = backend.incus
        await incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
        await incus.instances.create(InstanceRequest("x", image=tiny_image.fingerprint))
        with pytest.raises(NotFound):
            await incus.images.from_instance("x/none")
