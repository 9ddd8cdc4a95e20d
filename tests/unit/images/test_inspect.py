"""Image files that nobody signed, and exported ones: what is taken and what is refused."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.backup import Entry, entry, folder, pack
from tinyagentos.images.bundle import read_bundle
from tinyagentos.images.inspect import DEVICES, inspect_image
from tinyagentos.images.source import read_members
from tinyagentos.model.errors import InvalidInput, TaosError, Untrusted
from tinyagentos.signing.channel import TIMESTAMP_FILE

METADATA = b"architecture: x86_64\nproperties:\n  taos.framework: openclaw\n"
HEAD = (entry("metadata.yaml", content=METADATA), folder("rootfs"))


def char(name: str, major: int, minor: int) -> Entry:
    return entry(name, tarfile.CHRTYPE, devmajor=major, devminor=minor)


GOOD: tuple[Entry, ...] = (
    *HEAD,
    folder("rootfs/dev"),
    *(char(name, *number) for name, number in sorted(DEVICES.items())),
    folder("rootfs/usr"),
    entry("rootfs/usr/ping", pax_headers={"SCHILY.xattr.security.capability": "x"}),
    entry("rootfs/usr/su", content=b"su" * 400, mode=0o4755),
    entry("rootfs/usr/su2", tarfile.LNKTYPE, linkname="rootfs/usr/su"),
    entry("rootfs/usr/up", tarfile.SYMTYPE, linkname="../../.."),
    folder("templates"),
    entry("templates/hostname.tpl", content=b"x"),
)


def image(path: Path, *entries: Entry, more: bytes = b"") -> Path:
    file = path / "image.tar.zst"
    file.write_bytes(zstandard.compress(pack(entries) + more))
    return file


def test_an_image_as_they_are_built(tmp_path: Path) -> None:
    file = image(tmp_path, *GOOD, more=bytes(9000))
    seen = inspect_image(file)
    assert seen.metadata == METADATA.decode()
    assert seen.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert seen.size_bytes == file.stat().st_size


DEV = (*HEAD, folder("rootfs/dev"))
HOSTILE: dict[str, tuple[Entry, ...]] = {
    "a block device": (*DEV, entry("rootfs/dev/sda", tarfile.BLKTYPE, devmajor=8)),
    "a device under a known name": (*DEV, char("rootfs/dev/null", 1, 1)),
    "a block device under a known name": (
        *DEV, entry("rootfs/dev/null", tarfile.BLKTYPE, devmajor=1, devminor=3),
    ),
    "a known device elsewhere": (*HEAD, char("rootfs/null", 1, 3)),
    "a member beside": (*HEAD, entry("rootfs2")),
    "an absolute name": (*HEAD, entry("/etc/passwd")),
    "a name that climbs": (*HEAD, entry("rootfs/../../x")),
    "a root that is a link": (HEAD[0], entry("rootfs", tarfile.SYMTYPE, linkname="/")),
    "through a link": (
        *HEAD, entry("rootfs/a", tarfile.SYMTYPE, linkname="/etc"), entry("rootfs/a/passwd"),
    ),
    "a hard link out": (*HEAD, entry("rootfs/a", tarfile.LNKTYPE, linkname="../../etc/shadow")),
    "a name twice": (*HEAD, entry("rootfs/a"), entry("rootfs/a")),
    "metadata twice": (HEAD[0], *HEAD),
    "a template that is a link": (
        *HEAD, folder("templates"),
        entry("templates/x", tarfile.SYMTYPE, linkname="/etc/shadow"),
    ),
    "templates that are a link": (
        *HEAD, entry("templates", tarfile.SYMTYPE, linkname="/etc"),
    ),
    "metadata that is a link": (entry("metadata.yaml", tarfile.SYMTYPE, linkname="/etc/shadow"),),
    "large metadata": (entry("metadata.yaml", content=bytes(300_000)), HEAD[1]),
    "a sparse file": (*HEAD, entry("rootfs/a", tarfile.GNUTYPE_SPARSE)),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_image_holds_is_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(Untrusted):
        inspect_image(image(tmp_path, *HOSTILE[what]))


def test_a_second_archive_behind_the_first_is_refused(tmp_path: Path) -> None:
    evil = pack(HOSTILE["a block device"])
    file = image(tmp_path, *GOOD, more=evil)
    with pytest.raises(Untrusted):
        inspect_image(file)
    # In a frame of its own, which Incus's zstd unpacks as well.
    file.write_bytes(zstandard.compress(pack(GOOD)) + zstandard.compress(evil))
    with pytest.raises(Untrusted):
        inspect_image(file)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"hello", b"hsqs" + bytes(600), pack(GOOD)[:-1024], zstandard.compress(b""),
        zstandard.compress(pack(GOOD)[:-1024]), zstandard.compress(pack(GOOD))[:-8],
        zstandard.compress(pack(HEAD[1:])),
    ],
)  # fmt: skip
def test_what_is_no_image(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "image.tar.zst").write_bytes(content)
    with pytest.raises(InvalidInput):
        inspect_image(tmp_path / "image.tar.zst")
    with pytest.raises(InvalidInput):
        inspect_image(tmp_path / "absent.tar.zst")


FULL = pack(GOOD)
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(st.integers(0, 2**32), st.integers(1, 6), st.booleans())
def test_whatever_was_changed_in_an_image(
    tmp_path: Path, seed: int, changes: int, packed: bool
) -> None:
    chance = random.Random(seed)
    content = bytearray(zstandard.compress(FULL) if packed else FULL)
    for _ in range(changes):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file = tmp_path / "image.tar.zst"
    file.write_bytes(content if packed else zstandard.compress(bytes(content)))
    try:
        inspect_image(file)
    except TaosError:
        return
    plain = zstandard.ZstdDecompressor().stream_reader(file.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
        for one in tar:
            assert one.type != tarfile.BLKTYPE
            assert not one.ischr() or DEVICES[one.name] == (one.devmajor, one.devminor)


EXPORTED = {
    "1.root.json": b"{}",
    TIMESTAMP_FILE: b"{}",
    f"{'0' * 64}.openclaw-2026.9.6-x64-6c10c0bb8708-and-a-long-name.tar.zst": b"image" * 300,
}


def exported(path: Path) -> Path:
    file = path / "openclaw.taos-image"
    members = (entry(name, content=content) for name, content in EXPORTED.items())
    file.write_bytes(pack(members, tarfile.GNU_FORMAT))
    return file


def test_an_exported_image_is_read_where_it_stands(tmp_path: Path) -> None:
    file = exported(tmp_path)
    assert read_bundle(file).framework == "openclaw"
    content = file.read_bytes()
    for name, (at, size) in read_members(file).items():
        assert content[at : at + size] == EXPORTED[name]


@pytest.mark.parametrize(
    "entries",
    [
        (entry("a"), entry("a")),
        (entry("a", tarfile.SYMTYPE, linkname="b"),),
        (entry("a", tarfile.BLKTYPE),),
        (entry("a", b"x", b"12 path=evil\n"), entry("b")),
        (entry("a", tarfile.GNUTYPE_LONGNAME, b"x" * 600), entry("b")),
        tuple(entry(str(number)) for number in range(1001)),
    ],
)
def test_an_exported_image_says_nothing_twice(entries: tuple[Entry, ...], tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(pack(entries))
    with pytest.raises(InvalidInput):
        read_members(tmp_path / "a.tar")


@FUZZ
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_whatever_was_changed_in_an_exported_image(tmp_path: Path, seed: int, changes: int) -> None:
    file, chance = exported(tmp_path), random.Random(seed)
    content = bytearray(file.read_bytes())
    for _ in range(changes):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file.write_bytes(content)
    try:
        read_bundle(file)
        found = read_members(file)
    except TaosError:
        return
    assert all(0 <= at <= at + size <= len(content) for at, size in found.values())
