"""A strict reader of tar headers, for files that anybody may have made.

It understands what Go and GNU tar write for POSIX.1-2017 (USTAR with PAX records) and refuses what
readers understand in different ways: old formats, sparse files, headers upon headers, names that
leave their folder, pass through a link or come twice.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping

from tinyagentos.model.errors import TaosError

BLOCK = tarfile.BLOCKSIZE
USTAR, MAGIC_AT = b"ustar\x0000", 257
# Names and extended attributes of one file; a file system keeps at most 64 KiB in one attribute.
LARGEST_RECORDS = 16 * 1024 * 1024
LONGEST_NAME = 8192
EXTENDED = b"x"
NOBODY = 2**32 - 1
# PAX records that say again what the header says; uname, gname and the other times mean nothing.
_RECORDS = frozenset({"path", "linkpath", "size", "uid", "gid", "mtime"})
_IGNORED = frozenset({"atime", "ctime", "uname", "gname"})
# Names are bytes; here they always are.
_BINARY = b"hdrcharset=BINARY\n"
_XATTR, _ACL = "SCHILY.xattr.", "SCHILY.acl."


class TarReader:
    """The members of a tar that a walk over folders in lexical order made.

    take: gives exactly so many of its bytes. refused: makes the error of what is wrong with it.
    The caller takes a member's content, which is padded to whole blocks, before the next member.
    """

    def __init__(self, take: Callable[[int], bytes], refused: Callable[[str], TaosError]) -> None:
        self._take, self._refused = take, refused
        # The folders around the member that was read last, each with the last name in it.
        self._folders = [("", "")]
        self._files: set[int] = set()

    def enter(self, folder: str) -> None:
        """Take members in this folder only."""
        self._folders = [(folder, "")]

    def next(self) -> tarfile.TarInfo | None:
        """The next member as its header and its extended header say; None at the end."""
        block = self._take(BLOCK)
        if block == bytes(BLOCK):
            return None
        records: Mapping[str, str] = {}
        if block[156:157] == EXTENDED:
            size = self._header(block).size
            if size > LARGEST_RECORDS:
                raise self._refused("has an extended header that is too large")
            records = self._records(self._take(size + -size % BLOCK)[:size])
            block = self._take(BLOCK)
        member = self._header(block)
        try:
            return _combine(member, records)
        except (ValueError, OverflowError) as error:
            raise self._refused(f"has a header that cannot be ({error})") from error

    def _header(self, block: bytes) -> tarfile.TarInfo:
        if block[MAGIC_AT : MAGIC_AT + len(USTAR)] != USTAR:
            raise self._refused("has another tar format than Incus's backups")
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise self._refused(f"has a damaged header ({error})") from error

    def _records(self, content: bytes) -> Mapping[str, str]:
        """The PAX records (POSIX.1-2017, pax Extended Header)."""
        found: dict[str, str] = {}
        at = 0
        while at < len(content):
            digits = content[at : at + 10].partition(b" ")[0]
            length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
            record = content[at + len(digits) + 1 : at + length]
            key, equals, value = record.partition(b"=")
            name = key.decode(errors="surrogateescape")
            if not (equals and record.endswith(b"\n") and at + length <= len(content)):
                raise self._refused("has an extended header that cannot be read")
            is_known = name in _RECORDS or name in _IGNORED or name.startswith((_XATTR, _ACL))
            if name in found:
                raise self._refused(f"says {show(name)} twice of one file")
            if not is_known and record != _BINARY:
                raise self._refused(f"has the extended header {show(name)}")
            found[name] = value[:-1].decode(errors="surrogateescape")
            at += length
        return found

    def place(self, member: tarfile.TarInfo) -> None:
        """Follow the walk: every member is in a folder that is open, and after its neighbours.

        That leaves no second member of a name, and none that passes through a link.
        """
        parent, _, own = member.name.rpartition("/")
        while self._folders and self._folders[-1][0] != parent:
            self._folders.pop()
        if not self._folders or own in ("", ".", "..") or len(member.name) > LONGEST_NAME:
            raise self._refused(f"holds {show(member.name)}, which is in no folder before it")
        if _bytes(own) <= _bytes(self._folders[-1][1]):
            raise self._refused(f"holds {show(member.name)} a second time, or out of order")
        self._folders[-1] = (parent, own)
        if member.type == tarfile.DIRTYPE:
            self._folders.append((member.name, ""))
        if member.type == tarfile.REGTYPE:
            self._files.add(hash(member.name))
        elif member.size:
            raise self._refused(f"has content for {show(member.name)}, which is no file")
        if member.type == tarfile.LNKTYPE and hash(member.linkname) not in self._files:
            raise self._refused(f"holds {show(member.name)}, a hard link to no file before it")


def _combine(member: tarfile.TarInfo, records: Mapping[str, str]) -> tarfile.TarInfo:
    """The member as both of its headers say; ValueError for numbers and names that cannot be."""
    path = records.get("path", member.name)
    new = tarfile.TarInfo(path.removesuffix("/") if member.isdir() else path)
    new.type = member.type
    new.linkname = records.get("linkpath", member.linkname)
    new.size = _number(records.get("size"), member.size, 2**62)
    new.uid = _number(records.get("uid"), member.uid, NOBODY)
    new.gid = _number(records.get("gid"), member.gid, NOBODY)
    new.mode = member.mode
    new.devmajor, new.devminor = member.devmajor, member.devminor
    new.mtime = int(float(records.get("mtime", member.mtime)))
    if abs(new.mtime) > 2**40:
        raise ValueError("its time")
    is_link = new.type in (tarfile.LNKTYPE, tarfile.SYMTYPE)
    if "\0" in new.name + new.linkname or len(new.linkname) > LONGEST_NAME:
        raise ValueError("its name")
    if is_link != bool(new.linkname):
        raise ValueError("its link")
    new.pax_headers = {
        key: value for key, value in records.items()
        if key.startswith(_XATTR) and key.isprintable()
    }  # fmt: skip
    return new


def _number(record: str | None, header: int, end: int) -> int:
    if record is not None and not (record.isascii() and record.isdecimal() and len(record) < 20):
        raise ValueError("a number")
    value = header if record is None else int(record)
    if not 0 <= value < end:
        raise ValueError("a number")
    return value


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def show(name: str) -> str:
    """A name from the file, for a message."""
    return ascii(name if len(name) <= 80 else f"{name[:40]}…{name[-39:]}")
