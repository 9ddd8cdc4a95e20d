"""An image file that nobody has signed, read through before Incus unpacks it as root.

Set-user-ID programs stay: su and ping are in every Debian, and what they give is the container's
root. Device nodes are another thing, as an unprivileged container has no device cgroup: only those
that mmdebstrap puts into /dev are taken, which open nothing of the host.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

import zstandard

from tinyagentos.images.tar_reader import BLOCK, MAGIC_AT, USTAR, TarReader, show
from tinyagentos.model.errors import InvalidInput, Untrusted

METADATA, ROOT, TEMPLATES = "metadata.yaml", "rootfs", "templates"
# What `zstd --long=27` needs.
WINDOW = 1 << 27
PIECE = 1 << 20
LARGEST_METADATA = 256 * 1024
# A root of a gigabyte is large.
MOST_UNPACKED = 64 << 30
MOST_MEMBERS = 5_000_000
DEVICES = {
    f"{ROOT}/dev/{name}": number
    for name, number in {
        "console": (5, 1), "full": (1, 7), "null": (1, 3), "ptmx": (5, 2), "random": (1, 8),
        "tty": (5, 0), "urandom": (1, 9), "zero": (1, 5),
    }.items()
}  # fmt: skip
_PLAIN = (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


@dataclass(frozen=True)
class Inspected:
    """What a whole image file holds. sha256: of the bytes that were looked at."""

    metadata: str
    sha256: str
    size_bytes: int


def inspect_image(path: Path) -> Inspected:
    """Read the unified image file to its end; nothing is unpacked to disk.

    Raises InvalidInput when it is no such file as `taos image build` makes, Untrusted when it holds
    a device node, or a name that leads out of the image.
    """
    try:
        with path.open("rb") as file:
            head = file.read(MAGIC_AT + len(USTAR))
            file.seek(0)
            hashed = _Hashed(file)
            metadata = _Image(path.name, hashed, is_plain=head[MAGIC_AT:] == USTAR).read()
            while hashed.read(PIECE):
                pass
            return Inspected(metadata, hashed.digest.hexdigest(), file.tell())
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Give the path of an image file.",
        ) from error
    except zstandard.ZstdError as error:
        raise _no_image(path.name, f"it cannot be unpacked ({error})") from error


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Hashed:
    """A file whose digest is made while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.digest.update(piece)
        return piece


def _unpack(file: _Hashed) -> _Source:
    unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    source = cast(IO[bytes], file)  # it has the method that is called, if not all of IO
    # As the `zstd` that Incus runs: one frame after the other.
    return unpacker.stream_reader(source, read_size=PIECE, read_across_frames=True)


class _Image:
    """One pass over an image's members."""

    def __init__(self, name: str, file: _Hashed, *, is_plain: bool) -> None:
        self._name = name
        self._in: _Source = file if is_plain else _unpack(file)
        self._tar = TarReader(self._take, self._refused)
        self._left = MOST_UNPACKED

    def read(self) -> str:
        """The metadata, when all of the image can be taken."""
        metadata, members = "", 0
        while (member := self._tar.next()) is not None:
            self._tar.place(member)
            self._check(member)
            members += 1
            if members > MOST_MEMBERS:
                raise self._refused(f"has more than {MOST_MEMBERS} files")
            if member.name == METADATA:
                metadata = self._take(member.size).decode(errors="replace")
                self._skip(-member.size % BLOCK)
            else:
                self._skip(member.size + -member.size % BLOCK)
        while rest := self._in.read(PIECE):
            if rest.strip(b"\0"):
                raise self._refused("goes on after its end")
        if not metadata:
            raise _no_image(self._name, f"it has no {METADATA}")
        return metadata

    def _check(self, member: tarfile.TarInfo) -> None:
        top, _, inside = member.name.partition("/")
        kind = {METADATA: tarfile.REGTYPE, ROOT: tarfile.DIRTYPE, TEMPLATES: tarfile.DIRTYPE}
        if top not in kind or (not inside and member.type != kind[top]):
            raise self._refused(f"holds {show(member.name)} beside its root")
        # Incus reads them as root, through a link as well.
        if top == TEMPLATES and inside and member.type != tarfile.REGTYPE:
            raise self._refused(f"holds the template {show(member.name)}, which is no file")
        number = (member.devmajor, member.devminor)
        is_known = member.type == tarfile.CHRTYPE and DEVICES.get(member.name) == number
        if member.type not in _PLAIN and not is_known:
            raise self._refused(f"holds {show(member.name)}, a device node")
        if top == METADATA and member.size > LARGEST_METADATA:
            raise self._refused(f"has a {METADATA} that is too large")

    def _take(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._in.read(size)
            if not piece:
                raise _no_image(self._name, "it ends too early")
            pieces.append(piece)
            size -= len(piece)
            self._count(len(piece))
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._take(min(size, PIECE)))

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise self._refused(f"unpacks to more than {MOST_UNPACKED // 2**30} GiB")

    def _refused(self, what: str) -> Untrusted:
        return Untrusted(
            f"{self._name} is no image that taOS built: it {what}.",
            hint="Nothing of it was imported. Do not use this file.",
        )


def _no_image(name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{name} is not a unified Incus image: {why}.", hint="Make one with `taos image build`."
    )
