"""Fetching an image's file: in parts that are proven as they arrive, resumed wherever it ended.

The signed description of an image has the SHA-256 of every 4 MiB of it. What is on disk already is
proven first; only what is missing or wrong is asked for. So a drop, a restart or a power cut costs
at most the part that was on its way.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyagentos.images.line import Line
from tinyagentos.images.source import Source
from tinyagentos.model.errors import NoSpace, Unavailable
from tinyagentos.model.release import ImageTarget, WrongContent

STALL = 30.0
# Tries in a row without a new good part; then the reason is shown and the policy tries later.
TRIES = 8
LONGEST_WAIT = 60.0
# How often the same part may come wrong before the source, not the line, is to blame.
WRONG_TRIES = 3
Progress = Callable[[int, int], None]
Note = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Manner:
    """How to fetch. stall: seconds without a byte after which it is tried again."""

    stall: float = STALL
    line: Line = field(default_factory=Line)
    sleep: Sleep = asyncio.sleep


def part_path(folder: Path, target: ImageTarget) -> Path:
    """Where the image's file grows; it is kept when fetching stops, for the next time."""
    return part_of(folder, target.fingerprint)


def part_of(folder: Path, fingerprint: str) -> Path:
    """The same for an image of which only the fingerprint is known."""
    return folder / f"{fingerprint}.part"


async def fetch_image(
    target: ImageTarget,
    source: Source,
    folder: Path,
    *,
    progress: Progress,
    note: Note,
    manner: Manner = Manner(),
) -> Path:
    """The file with all of the image's parts, each proven. progress: bytes here, bytes in all.

    Raises Unavailable when it cannot be had now (what came is kept), WrongContent when the source
    sends something else than what was signed, NoSpace when the disk takes no more: then
    what came is removed, because a full disk stops more than this.
    """
    path = part_path(folder, target)
    good = await asyncio.to_thread(find_good_parts, path, target)
    waits = 0
    wrong: dict[int, int] = {}
    while missing := [index for index in range(len(target.chunks)) if index not in good]:
        progress(good_bytes(good, target), target.size_bytes)
        before = len(good)
        try:
            await _fetch_run(missing, good, wrong, target, source, path, progress, manner)
        except Unavailable as error:
            waits = 0 if len(good) > before else waits + 1
            if waits >= TRIES:
                raise
            pause = min(LONGEST_WAIT, 2.0**waits) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            note(f"{error.message.rstrip('.')}; trying again in {pause:.0f} s")
            await manner.sleep(pause)
    progress(target.size_bytes, target.size_bytes)
    return path


def find_good_parts(path: Path, target: ImageTarget) -> set[int]:
    """The parts that the file holds as they were signed."""
    good = set()
    try:
        with path.open("rb") as file:
            for index, digest in enumerate(target.chunks):
                if hashlib.sha256(file.read(part_size(index, target))).hexdigest() == digest:
                    good.add(index)
    except FileNotFoundError:
        return set()
    return good


def part_size(index: int, target: ImageTarget) -> int:
    """The bytes of the part; the last may be shorter."""
    return min(target.chunk_bytes, target.size_bytes - index * target.chunk_bytes)


def good_bytes(good: set[int], target: ImageTarget) -> int:
    """The bytes of the parts."""
    return sum(part_size(index, target) for index in good)


async def _fetch_run(
    missing: Sequence[int],
    good: set[int],
    wrong: dict[int, int],
    target: ImageTarget,
    source: Source,
    path: Path,
    progress: Progress,
    manner: Manner,
) -> None:
    """Ask once, from the first missing part on, and keep what is right.

    It ends at the next part that is here already, unless the source can only send everything.
    """
    first = missing[0] * target.chunk_bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        async with source.open(target.file_name, first, manner.stall) as part:
            if part.total is not None and part.total != target.size_bytes:
                raise _not_signed(f"it is said to have {part.total} bytes")
            index, held = part.start // target.chunk_bytes, bytearray()
            manner.line.begin()
            async for piece in part.pieces:
                held += piece
                await manner.line.take(len(piece))
                while index < len(target.chunks) and len(held) >= part_size(index, target):
                    size = part_size(index, target)
                    content, held = bytes(held[:size]), held[size:]
                    if index not in good:
                        await _keep(content, index, descriptor, good, wrong, target, path)
                    index += 1
                if index >= len(target.chunks) or good.issuperset(range(index, len(target.chunks))):
                    return
                if index in good and part.start == first:
                    return  # it can begin anywhere: the next request does, behind what is here
                on_its_way = 0 if index in good else len(held)
                progress(good_bytes(good, target) + on_its_way, target.size_bytes)
        raise Unavailable("the connection ended early.", hint="It is tried again.")
    finally:
        os.close(descriptor)


async def _keep(
    content: bytes,
    index: int,
    descriptor: int,
    good: set[int],
    wrong: dict[int, int],
    target: ImageTarget,
    path: Path,
) -> None:
    """Write the part where it belongs if it is as signed; else it is asked for again."""
    digest = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
    if digest != target.chunks[index]:
        wrong[index] = wrong.get(index, 0) + 1
        if wrong[index] >= WRONG_TRIES:
            raise _not_signed(f"its part {index + 1} of {len(target.chunks)} is not the signed one")
        raise Unavailable(
            f"part {index + 1} of {len(target.chunks)} came damaged.", hint="It is asked for again."
        )
    try:
        await asyncio.to_thread(_write_all, descriptor, content, index * target.chunk_bytes)
    except OSError as error:
        # The jobs' database is on the same disk, and needs room to say what has happened.
        path.unlink(missing_ok=True)
        had = f"{good_bytes(good, target) / 1e6:.0f} of {target.size_bytes / 1e6:.0f} MB"
        raise NoSpace(
            f"The image cannot be written: {error.strerror}. "
            f"{had} were here; they were removed to give back the room.",
            hint="Make room on the disk of data_dir, then download again.",
        ) from error
    good.add(index)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    """Write everything; a disk that becomes full first takes a piece and then says so."""
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], offset + done)


def _not_signed(why: str) -> WrongContent:
    return WrongContent(
        f"The channel sends another image than was signed: {why}.",
        hint="Nothing of it is used. Whoever publishes the channel has to mend it.",
    )
