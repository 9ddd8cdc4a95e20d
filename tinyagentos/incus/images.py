"""Images: bring them in, make them, name them, hand them out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

from tinyagentos.incus.errors import AlreadyExists, IncusError, NotFound, OperationLost
from tinyagentos.incus.image import Image, ImageAlias
from tinyagentos.incus.operations import Api, Operation, submitted
from tinyagentos.incus.parse import as_object, as_objects, text
from tinyagentos.incus.transport import CHUNK, NONE, Texts

PATH = "/1.0/images"
ALIASES = f"{PATH}/aliases"
IMPORT_WITHIN = 600.0
MAKE_WITHIN = 3600.0
COPY_STALL = 120.0
BOUNDARY = "taos-incus-image-4f0b7f6f2d"

Content = Path | AsyncIterable[bytes]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Images:
    """The images of the project."""

    api: Api

    async def list(self) -> tuple[Image, ...]:
        """All images."""
        seen = await self.api.get(PATH, query={"recursion": "1"})
        return tuple(Image.parse(one) for one in as_objects(seen))

    async def find(self, fingerprint: str) -> Image | None:
        """The image, or None."""
        with contextlib.suppress(NotFound):
            return await self.get(fingerprint)
        return None

    async def get(self, fingerprint: str) -> Image:
        """The image; NotFound when there is none."""
        return Image.parse(as_object(await self.api.get(_path(fingerprint))))

    async def find_alias(self, name: str) -> ImageAlias | None:
        """Exactly this alias, or None."""
        with contextlib.suppress(NotFound):
            return ImageAlias.parse(as_object(await self.api.get(_alias(name))))
        return None

    async def list_aliases(self) -> tuple[ImageAlias, ...]:
        """All aliases."""
        seen = await self.api.get(ALIASES, query={"recursion": "1"})
        return tuple(ImageAlias.parse(one) for one in as_objects(seen))

    async def create_alias(self, name: str, fingerprint: str, description: str = "") -> None:
        """Name the image; AlreadyExists when the name is taken."""
        body = {"name": name, "target": fingerprint, "description": description}
        await self.api.call("POST", ALIASES, body)

    async def move_alias(self, name: str, fingerprint: str, description: str = "") -> None:
        """Make the existing alias stand for this image; NotFound when there is no alias."""
        await self.api.call(
            "PUT", _alias(name), {"target": fingerprint, "description": description}
        )

    async def set_alias(self, name: str, fingerprint: str, description: str = "") -> None:
        """Make the alias stand for this image, whether it is there already or not."""
        try:
            await self.move_alias(name, fingerprint, description)
        except NotFound:
            await self.create_alias(name, fingerprint, description)

    async def delete_alias(self, name: str) -> None:
        """Delete the alias and leave its image; NotFound when there is none."""
        await self.api.call("DELETE", _alias(name))

    async def add(
        self,
        image: Content,
        *,
        expect: str,
        properties: Texts = NONE,
        progress: Progress | None = None,
        stall: float | None = None,
    ) -> str:
        """The fingerprint of the unified image, which Incus has now; one it had is no error.

        expect: the image's SHA-256, which Incus checks: FingerprintMismatch. progress is called
        with the bytes sent so far. stall: seconds without progress after which it is given up.
        """
        body = _counted(_content(image), progress)
        headers = {"Content-Type": "application/octet-stream"}
        return await self._add(body, headers, expect, properties, stall)

    async def add_split(
        self,
        metadata: Content,
        rootfs: Content,
        *,
        expect: str,
        properties: Texts = NONE,
        progress: Progress | None = None,
        stall: float | None = None,
    ) -> str:
        """As add(), of an image in two files; expect is the SHA-256 of metadata, then rootfs."""
        body = _counted(_multipart(metadata=metadata, rootfs=rootfs), progress)
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return await self._add(body, headers, expect, properties, stall)

    async def from_instance(
        self,
        name: str,
        *,
        compression: str = "",
        properties: Texts = NONE,
        alias: str = "",
        public: bool = False,
        within: float = MAKE_WITHIN,
    ) -> str:
        """The fingerprint of a new image of the stopped instance, or of `instance/snapshot`.

        compression: as Incus takes it (`zstd`, `gzip`, `none`), else the project's default.
        """
        body: dict[str, object] = {
            "source": {"type": "snapshot" if "/" in name else "instance", "name": name},
            "properties": dict(properties),
            "public": public,
            "auto_update": False,
        }
        if compression:
            body["compression_algorithm"] = compression
        if alias:
            body["aliases"] = [{"name": alias}]
        return text((await self.api.run("POST", PATH, body, within=within)).metadata, "fingerprint")

    async def copy_from_remote(
        self,
        server: str,
        alias: str,
        *,
        protocol: Literal["simplestreams", "incus"] = "simplestreams",
        local_alias: str = "",
        type: Literal["container", "virtual-machine"] = "container",  # noqa: A002 - Incus's word
        stall: float = COPY_STALL,
        on_progress: Callable[[str], None] | None = None,
    ) -> str:
        """The fingerprint of the image server's image, which Incus fetched itself.

        on_progress is called with Incus's words (`rootfs: 54% (3.00MB/s)`). stall: seconds
        without progress after which the copy is cancelled (IncusTimeout).
        """
        source = {
            "type": "image",
            "mode": "pull",
            "server": server,
            "protocol": protocol,
            "alias": alias,
            "image_type": type,
        }
        body: dict[str, object] = {"source": source, "auto_update": False}
        if local_alias:
            body["aliases"] = [{"name": local_alias}]

        def tell(seen: Operation) -> None:
            if on_progress and (said := text(seen.metadata, "download_progress")):
                on_progress(said)

        operation = await self.api.submit("POST", PATH, body)
        over = await self.api.wait(operation, stall=stall, on_progress=tell)
        return text(over.metadata, "fingerprint")

    async def update(
        self,
        fingerprint: str,
        *,
        properties: Texts | None = None,
        auto_update: bool | None = None,
        public: bool | None = None,
    ) -> None:
        """Replace the properties, or change whether Incus updates or shows the image."""
        reply = await self.api.call("GET", _path(fingerprint))
        before = Image.parse(as_object(reply.metadata))
        body: Mapping[str, object] = {
            **as_object(reply.metadata),
            "properties": dict(before.properties if properties is None else properties),
            "auto_update": before.auto_update if auto_update is None else auto_update,
            "public": before.public if public is None else public,
        }
        await self.api.call("PUT", _path(fingerprint), body, etag=reply.etag)

    async def delete(self, fingerprint: str) -> None:
        """Delete the image and its aliases; instances made from it stay."""
        try:
            await self.api.run("DELETE", _path(fingerprint))
        except OperationLost:
            if await self.find(fingerprint):
                raise

    async def export(self, fingerprint: str, *, stall: float | None = None) -> AsyncIterator[bytes]:
        """The image's bytes: the file of a unified image, multipart of a split one."""
        path = f"{_path(fingerprint)}/export"
        query = self.api.query()
        async with self.api.transport.download(path, query=query, stall=stall) as download:
            async for chunk in download.chunks():
                yield chunk

    async def _add(
        self,
        body: AsyncIterator[bytes],
        headers: Texts,
        expect: str,
        properties: Texts,
        stall: float | None,
    ) -> str:
        if await self.find(expect):
            return expect
        headers = {**headers, "X-Incus-fingerprint": expect}
        if properties:
            headers["X-Incus-properties"] = urlencode(properties)
        reply = await self.api.transport.upload(
            "POST", PATH, body, query=self.api.query(), headers=headers, stall=stall
        )
        try:
            over = await self.api.wait(submitted(reply), within=IMPORT_WITHIN)
        except AlreadyExists:
            return expect
        except OperationLost:
            if await self.find(expect):
                return expect
            raise
        found = text(over.metadata, "fingerprint")
        if found != expect:
            raise IncusError(f"Incus says it imported {found}, {expect} was sent")
        return found


async def _content(content: Content) -> AsyncIterator[bytes]:
    if not isinstance(content, Path):
        async for chunk in content:
            yield chunk
        return
    with await asyncio.to_thread(content.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


async def _counted(chunks: AsyncIterator[bytes], progress: Progress | None) -> AsyncIterator[bytes]:
    sent = 0
    async for chunk in chunks:
        yield chunk
        sent += len(chunk)
        if progress:
            progress(sent)


async def _multipart(**parts: Content) -> AsyncIterator[bytes]:
    """A form of files in this order: Incus takes metadata first, then rootfs."""
    for name, content in parts.items():
        yield (
            f"--{BOUNDARY}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        async for chunk in _content(content):
            yield chunk
        yield b"\r\n"
    yield f"--{BOUNDARY}--\r\n".encode()


def _path(fingerprint: str) -> str:
    return f"{PATH}/{quote(fingerprint, safe='')}"


def _alias(name: str) -> str:
    return f"{ALIASES}/{quote(name, safe='')}"
