"""Files inside instances, running or stopped."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from tinyagentos.incus.operations import Api
from tinyagentos.incus.parse import decode, size, texts
from tinyagentos.incus.transport import CHUNK, Download

FileType = Literal["file", "directory", "symlink"]


@dataclass(frozen=True)
class PulledFile:
    """A file with its owner and mode; content is the target of a symbolic link, one name per
    line of a directory."""

    type: str
    uid: int
    gid: int
    mode: int
    content: bytes


@dataclass(frozen=True)
class Files:
    """The files of the project's instances."""

    api: Api

    async def push(
        self,
        instance: str,
        path: str,
        content: bytes | AsyncIterable[bytes] = b"",
        *,
        uid: int = 0,
        gid: int = 0,
        mode: int = 0o644,
        type: FileType = "file",  # noqa: A002 - Incus's word
        stall: float | None = None,
    ) -> None:
        """Write the file, replacing one that is there; its directory must exist (else NotFound).

        A directory takes no content, a symlink its target.
        """
        headers = {
            "X-Incus-uid": str(uid),
            "X-Incus-gid": str(gid),
            "X-Incus-mode": f"{mode:04o}",
            "X-Incus-type": type,
            "X-Incus-write": "overwrite",
            "Content-Type": "application/octet-stream",
        }
        await self.api.transport.upload(
            "POST",
            _path(instance),
            in_chunks(content),
            query=self.api.query({"path": path}),
            headers=headers,
            stall=stall,
        )

    async def pull(self, instance: str, path: str) -> PulledFile:
        """The whole file; NotFound when it is not there. Links are not followed."""
        async with self.open(instance, path) as download:
            content = await download.read()
            headers = download.headers
        if headers.get("x-incus-type") == "directory":
            content = "\n".join(texts(decode(content), "metadata")).encode()
        return PulledFile(
            type=headers.get("x-incus-type", "file"),
            uid=size(headers, "x-incus-uid"),
            gid=size(headers, "x-incus-gid"),
            mode=int(headers.get("x-incus-mode", "0"), 8),
            content=content,
        )

    @asynccontextmanager
    async def open(self, instance: str, path: str) -> AsyncIterator[Download]:
        """The file to be read in chunks: `async for chunk in download.chunks()`."""
        query = self.api.query({"path": path})
        async with self.api.transport.download(_path(instance), query=query) as download:
            yield download

    async def delete(self, instance: str, path: str) -> None:
        """Delete the file or empty directory; NotFound when it is not there."""
        await self.api.call("DELETE", _path(instance), query={"path": path})


async def in_chunks(content: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The content in pieces small enough for a stall to be noticed."""
    if isinstance(content, bytes):
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]
        return
    async for chunk in content:
        yield chunk


def _path(instance: str) -> str:
    return f"/1.0/instances/{quote(instance, safe='')}/files"
