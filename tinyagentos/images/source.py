"""Where images come from: a channel on an HTTP server, or in a folder such as a USB stick."""

from __future__ import annotations

import asyncio
import os
import re
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

import aiohttp
import httpx

from tinyagentos.model.errors import InvalidInput, NotFound, Unavailable
from tinyagentos.model.release import FILE_NAME
from tinyagentos.signing.channel import METADATA_LIMIT, Fetch, directory

CONNECT_WITHIN = 10.0
METADATA_WITHIN = 30.0
# All of a small file; the other is for each read, and a mirror may send a byte before each ends.
METADATA_WHOLE_WITHIN = 60.0
READ_SIZE = 1 << 18
# A channel has a root for each exchange of keys, three more files of metadata, and one image.
MOST_MEMBERS = 1000
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
# Not answers about the file, but about the moment, the address's age or the server's health.
PASSING = frozenset({401, 403, 408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Part:
    """The file's bytes from start on, as they arrive. total: of the whole file, as is said."""

    start: int
    total: int | None
    pieces: AsyncIterator[bytes]


@dataclass(frozen=True)
class Source:
    """A channel's files. address: `http(s)://…`, a folder's path, or that of an exported file."""

    address: str

    @property
    def folder(self) -> Path | None:
        """The folder, when it is one."""
        return None if urlsplit(self.address).scheme in ("http", "https") else Path(self.address)

    @property
    def bundle(self) -> Path | None:
        """The exported file, when it is one."""
        return self.folder if self.folder and self.folder.is_file() else None

    @property
    def metadata(self) -> Fetch:
        """Read a small file; it blocks, within a deadline."""
        if self.bundle:
            return self._read_member
        return directory(self.folder) if self.folder else self._fetch

    @asynccontextmanager
    async def open(self, name: str, start: int, stall: float) -> AsyncIterator[Part]:
        """The file's bytes from start on; a server that cannot do that sends all of them.

        stall: seconds without a byte after which it is given up. Raises Unavailable when it cannot
        be had now, NotFound when it is not there.
        """
        try:
            if self.bundle:
                async with _open_member(self.bundle, name, start) as part:
                    yield part
            elif self.folder:
                async with _open_file(self.folder / name, start) as part:
                    yield part
            else:
                async with self._open(name, start, stall) as part:
                    yield part
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{_words(error, stall)}.", hint="It is tried again.") from error

    @asynccontextmanager
    async def _open(self, name: str, start: int, stall: float) -> AsyncIterator[Part]:
        # No total limit: a slow line is no reason to begin again.
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_WITHIN, sock_read=stall)
        headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as http,
            http.get(self._url(name), headers=headers, max_redirects=5) as answer,
        ):
            if answer.status in (404, 410):
                raise NotFound(f"The channel has no {name[:100]}.", hint="Ask it again later.")
            if answer.status not in (200, 206):
                when = "now" if answer.status in PASSING else "at all"
                raise Unavailable(
                    f"The channel does not give the image {when}: {answer.status}.",
                    hint="Look at the setting `image_channel`.",
                )
            begun, total = _range(answer, start)
            yield Part(begun, total, answer.content.iter_chunked(READ_SIZE))

    def _fetch(self, name: str) -> Iterator[bytes]:
        taken, until = 0, time.monotonic() + METADATA_WHOLE_WITHIN
        try:
            with httpx.stream(
                "GET", self._url(name), timeout=METADATA_WITHIN, follow_redirects=True
            ) as answer:
                if answer.status_code in (404, 410):
                    raise NotFound(f"The channel has no {name}.", hint="Look at `image_channel`.")
                if answer.status_code != 200:
                    raise Unavailable(
                        f"The channel answers {answer.status_code}.",
                        hint="It is tried again later.",
                    )
                for piece in answer.iter_raw():
                    yield piece
                    taken += len(piece)
                    if taken > METADATA_LIMIT:
                        return
                    if time.monotonic() > until:
                        raise Unavailable(
                            f"The channel sends {name[:100]} too slowly.",
                            hint="It is tried again later.",
                        )
        except httpx.HTTPError as error:
            raise Unavailable(
                f"The channel cannot be reached ({type(error).__name__}).",
                hint="It is tried again later. `taos agent deploy` builds meanwhile.",
            ) from error

    def _read_member(self, name: str) -> Iterator[bytes]:
        path = Path(self.address)
        offset, size = _find_member(path, name)
        with path.open("rb") as file:
            file.seek(offset)
            yield file.read(min(size, METADATA_LIMIT + 1))

    def _url(self, name: str) -> str:
        return f"{self.address.rstrip('/')}/{quote(name)}"


def open_source(address: str) -> Source:
    """The source; InvalidInput when the address is neither a web address nor a folder's path."""
    scheme = urlsplit(address).scheme
    if scheme not in ("", "http", "https") or (not scheme and not Path(address).is_absolute()):
        raise InvalidInput(
            f"{address[:100]!r} is no channel.",
            hint="Give an address such as https://… or a folder's whole path in `image_channel`.",
        )
    return Source(address)


@asynccontextmanager
async def _open_file(path: Path, start: int) -> AsyncIterator[Part]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(f"The channel has no {path.name[:100]}.", hint="Copy all files.") from error

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(file.read, READ_SIZE):
            yield piece

    with file:
        total = path.stat().st_size
        file.seek(start)
        yield Part(start, total, pieces())


def read_members(path: Path, file: IO[bytes] | None = None) -> Mapping[str, tuple[int, int]]:
    """The files in an uncompressed tar by name: where each begins, and its size.

    Only plain files in no folder count. file: the file at the path, when it is open already.
    InvalidInput when it is no tar, or one that says anything in more than one way.
    """
    try:
        with ExitStack() as stack:
            opened = file or stack.enter_context(path.open("rb"))
            return dict(_walk_members(opened))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InvalidInput(
            f"{path.name} cannot be read as an exported image: {error}.",
            hint="Give a file that `taos image export` wrote.",
        ) from error


def _walk_members(file: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Headers and contents in turn, up to the first empty block.

    Written out because tarfile reads extended headers of any size into memory.
    """
    size = file.seek(0, os.SEEK_END)
    at, seen, long_name = 0, set[str](), ""
    while at + tarfile.BLOCKSIZE <= size:
        file.seek(at)
        block = file.read(tarfile.BLOCKSIZE)
        if block == bytes(tarfile.BLOCKSIZE):
            if at == 0:
                break
            return
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        at += tarfile.BLOCKSIZE
        if member.type == tarfile.GNUTYPE_LONGNAME and 0 < member.size <= tarfile.BLOCKSIZE:
            long_name = file.read(member.size).rstrip(b"\0").decode(errors="surrogateescape")
            at += tarfile.BLOCKSIZE
            continue
        member.name, long_name = long_name or member.name, ""
        if member.name in seen or len(seen) >= MOST_MEMBERS or member.type not in PLAIN:
            raise ValueError(f"{member.name[:60]!r} does not belong there")
        if not 0 <= member.size <= size - at:
            raise ValueError("it ends too early")
        seen.add(member.name)
        if re.fullmatch(FILE_NAME, member.name):
            yield member.name, (at, member.size)
        at += member.size + -member.size % tarfile.BLOCKSIZE
    raise ValueError("it is no tar, or ends too early")


def _find_member(path: Path, name: str) -> tuple[int, int]:
    found = read_members(path).get(name)
    if found is None:
        raise NotFound(f"{path.name} has no {name[:100]}.", hint="Export the image again.")
    return found


@asynccontextmanager
async def _open_member(path: Path, name: str, start: int) -> AsyncIterator[Part]:
    offset, size = _find_member(path, name)

    async def pieces() -> AsyncIterator[bytes]:
        left = size - start
        while left and (piece := await asyncio.to_thread(file.read, min(READ_SIZE, left))):
            left -= len(piece)
            yield piece

    with path.open("rb") as file:
        file.seek(offset + start)
        yield Part(start, size, pieces())


def _range(answer: aiohttp.ClientResponse, start: int) -> tuple[int, int | None]:
    """Where the answer begins, and how long the file is said to be (RFC 9110, section 14.4)."""
    if answer.status == 200:
        return 0, answer.content_length
    unit, _, span = answer.headers.get("Content-Range", "").partition(" ")
    begun, _, total = span.partition("/")
    first = begun.partition("-")[0]
    if unit != "bytes" or first != str(start):
        raise Unavailable(
            "The channel sends another part of the image than it was asked for.",
            hint="It is tried again.",
        )
    return start, int(total) if re.fullmatch("[0-9]{1,18}", total) else None


def _words(error: BaseException, stall: float) -> str:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "the channel does not answer"
        case TimeoutError():
            return f"no byte came for {stall:.0f} s"
        case aiohttp.TooManyRedirects():
            return "the channel sends from one address to the next without end"
        case aiohttp.ClientPayloadError():
            return "the connection broke off"
        case _:
            return f"the channel cannot be reached ({type(error).__name__})"
