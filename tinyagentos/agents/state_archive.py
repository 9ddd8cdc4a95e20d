"""A state backup read strictly and written anew, so that Incus gets only what taOS wrote itself.

Incus unpacks a volume backup as root and keeps device nodes, set-user-ID bits and file
capabilities, and what one tar reader takes for a name another may not. Archive therefore
understands exactly the tar that Incus's own backups are (USTAR with PAX records, folders in lexical
order), refuses everything else, and yields a new archive made of what it understood.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from tinyagentos.images.tar_reader import MAGIC_AT, NOBODY, USTAR, TarReader, show
from tinyagentos.model.errors import InvalidInput, Untrusted

PIECE = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
LARGEST_INDEX = 256 * 1024
LARGEST_PADDING = 64 * 1024
MOST_MEMBERS = 5_000_000
GZIP = b"\x1f\x8b"
INDEX, VOLUME = "backup/index.yaml", "backup/volume"
# Of the mode: permissions and the sticky bit. Set-user-ID and set-group-ID are dropped.
KEPT_MODE = 0o1777
IDMAPS = ("volatile.idmap.last", "volatile.idmap.next")
_IDMAP = re.compile(r"^ +(volatile\.idmap\.(?:last|next)): '?(\[.*\])'?$", re.MULTILINE)
_FOREIGN = re.compile(
    r"^(?:optimized|optimized_header): (?!false$)|^snapshots:(?! \[\]$)"
    r"|^ *content_type: (?!filesystem$)|^type: (?!custom$)",
    re.MULTILINE,
)
_IDMAP_KEYS = {"Isuid": bool, "Isgid": bool, "Hostid": int, "Nsid": int, "Maprange": int}
# A user namespace may make no other device than this one, with which overlay marks a removed file.
_WHITEOUT = (0, 0)
_XATTR = "SCHILY.xattr.user."
_KINDS = {
    tarfile.REGTYPE: "a file",
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
}


@dataclass(frozen=True)
class Tally:
    """How much a state is: its members below the volume's root, and the bytes of its files."""

    members: int
    content_bytes: int


class Archive:
    """One pass over the backup in that part of the open file; renewed() runs it.

    Afterwards `tally` and `sha256` tell what was read. name: the file's, for messages.
    """

    def __init__(self, file: IO[bytes], offset: int, size: int, name: str) -> None:
        self._name = name
        self._in = _Unpacker(file, offset, size, name)
        self._members = self._bytes = 0
        self._tar = TarReader(self._in.take, self._refused)

    @property
    def tally(self) -> Tally:
        """What was read so far."""
        return Tally(self._members, self._bytes)

    @property
    def sha256(self) -> str:
        """Of the backup's bytes, as far as they were read."""
        return self._in.digest.hexdigest()

    @property
    def position(self) -> int:
        """Bytes of the backup that were read so far."""
        return self._in.position

    def renewed(self) -> Iterator[bytes]:
        """The new archive, without the blocks that end it, in pieces of about 1 MiB.

        Raises InvalidInput when the part is packed in another way, Untrusted when it holds what
        Incus's backup of an agent's state cannot.
        """
        batch: list[bytes] = []
        length = 0
        for piece in self._pieces():
            batch.append(piece)
            length += len(piece)
            if length >= PIECE:
                yield b"".join(batch)
                batch, length = [], 0
        yield b"".join(batch)

    def _pieces(self) -> Iterator[bytes]:
        first = self._next()
        if first is None or first.name != INDEX or first.type != tarfile.REGTYPE:
            raise self._refused("does not begin with Incus's index")
        yield from self._index(first)
        root = self._next()
        if root is None or root.name != VOLUME or root.type != tarfile.DIRTYPE:
            raise self._refused("has no folder of the volume after its index")
        yield _head(root)
        self._tar.enter(VOLUME)
        while (member := self._next()) is not None:
            self._tar.place(member)
            self._check(member)
            self._members += 1
            if self._members > MOST_MEMBERS:
                raise self._refused(f"has more than {MOST_MEMBERS} files")
            yield _head(member)
            self._bytes += member.size
            yield from self._in.pieces(member.size)
            if padding := -member.size % BLOCK:
                self._in.take(padding)
                yield bytes(padding)
        self._in.end()

    def _index(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """A new index with nothing of the old one but Incus's notes on users' numbers."""
        if member.size > LARGEST_INDEX:
            raise self._refused("has an index that is too large")
        content = self._in.take(member.size + -member.size % BLOCK)[: member.size]
        told = content.decode(errors="replace")
        if _FOREIGN.search(told):
            raise self._refused("has the index of something else than an agent's state")
        config = {}
        for key, value in _IDMAP.findall(told):
            if key in config or not _is_idmap(value):
                raise self._refused(f"says nonsense in {key}")
            config[key] = value
        new = json.dumps(_make_index(config)).encode()
        head = tarfile.TarInfo(INDEX)
        head.size, head.mode = len(new), 0o600
        yield head.tobuf(tarfile.PAX_FORMAT) + new + bytes(-len(new) % BLOCK)

    def _check(self, member: tarfile.TarInfo) -> None:
        kind = _KINDS.get(member.type)
        shown = show(member.name)
        if kind is None:
            raise self._refused(f"holds {shown}, of a kind that no backup has")
        is_whiteout = member.type == tarfile.CHRTYPE and (
            (member.devmajor, member.devminor) == _WHITEOUT
        )
        if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) and not is_whiteout:
            raise self._refused(f"holds {kind}, {shown}")

    def _next(self) -> tarfile.TarInfo | None:
        """The next member without what would give anybody rights."""
        member = self._tar.next()
        if member:
            member.mode &= KEPT_MODE
            member.pax_headers = {
                key: value for key, value in member.pax_headers.items() if key.startswith(_XATTR)
            }
        return member

    def _refused(self, what: str) -> Untrusted:
        return Untrusted(
            f"{self._name} is no state that taOS exported: it {what}.",
            hint="Nothing of it was imported. Do not use this file.",
        )


class _Unpacker:
    """The unpacked bytes of a part of a file: a tar as it is, or packed once by gzip."""

    def __init__(self, file: IO[bytes], offset: int, size: int, name: str) -> None:
        self.digest = hashlib.sha256()
        self.position = 0
        self._file, self._at, self._left, self._name = file, offset, size, name
        self._gunzip: zlib._Decompress | None = None
        self._buffer, self._next = b"", 0
        head = self._read(PIECE)
        if head.startswith(GZIP):
            self._gunzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            self._packed = head
        elif head[MAGIC_AT : MAGIC_AT + len(USTAR)] == USTAR:
            self._buffer = head
        else:
            raise InvalidInput(
                f"What is in {name} is packed in another way.",
                hint="Give a file that `taos agent export` wrote.",
            )

    def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        if self._next + size <= len(self._buffer):
            self._next += size
            return self._buffer[self._next - size : self._next]
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """Exactly so many bytes, in pieces; Untrusted when there are fewer."""
        while size:
            if self._next == len(self._buffer):
                self._buffer, self._next = self._more(), 0
                if not self._buffer:
                    raise self._damaged("it ends too early")
            piece = self._buffer[self._next : self._next + size]
            self._next += len(piece)
            size -= len(piece)
            yield piece

    def end(self) -> None:
        """Return when nothing but padding follows."""
        rest, length = self._buffer[self._next :], 0
        while rest:
            length += len(rest)
            if length > LARGEST_PADDING or rest.strip(b"\0"):
                raise self._damaged("something follows its end")
            rest = self._more()

    def _more(self) -> bytes:
        if self._gunzip is None:
            return self._read(PIECE)
        try:
            while not self._gunzip.eof:
                if not self._packed and not (packed := self._read(PIECE)):
                    raise self._damaged("it ends too early")
                packed = self._packed or packed
                piece = self._gunzip.decompress(packed, PIECE)
                self._packed = self._gunzip.unconsumed_tail
                if piece:
                    return piece
        except zlib.error as error:
            raise self._damaged(str(error)) from error
        if self._gunzip.unused_data or self._read(1):
            raise self._damaged("something follows its end")
        return b""

    def _read(self, most: int) -> bytes:
        self._file.seek(self._at)
        piece = self._file.read(min(most, self._left))
        self._at += len(piece)
        self._left -= len(piece)
        self.position += len(piece)
        self.digest.update(piece)
        return piece

    def _damaged(self, how: str) -> Untrusted:
        return Untrusted(
            f"What is in {self._name} cannot be unpacked: {how}.",
            hint="Copy the file again, or export again.",
        )


def _head(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _is_idmap(text: str) -> bool:
    """Whether it is a list of ranges of numbers, as Incus writes it."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(entries, list)
        and len(entries) <= 100
        and all(isinstance(one, dict) and _is_range(one) for one in entries)
    )


def _is_range(entry: Mapping[str, object]) -> bool:
    return entry.keys() == _IDMAP_KEYS.keys() and all(
        type(value) is _IDMAP_KEYS[key] and 0 <= int(value) < NOBODY  # type: ignore[call-overload]
        for key, value in entry.items()
    )


def _make_index(config: Mapping[str, str]) -> Mapping[str, object]:
    """Incus's index of the backup of a custom volume; JSON is YAML, too."""
    volume = {
        "name": "state",
        "type": "custom",
        "content_type": "filesystem",
        "description": "",
        "location": "none",
        "used_by": [],
        "config": dict(config),
    }
    return {
        "name": "state",
        "backend": "dir",
        "pool": "taos",
        "type": "custom",
        "optimized": False,
        "optimized_header": False,
        "config": {"volume": volume},
    }
