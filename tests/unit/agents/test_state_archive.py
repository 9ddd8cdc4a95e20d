"""The state archive: what is taken, what is refused, and what Incus is given of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import tracemalloc
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fakes.backup import Entry, entry, folder, index_of, pack, pack_volume
from tinyagentos.agents.state_archive import Archive, Tally
from tinyagentos.model.errors import InvalidInput, TaosError, Untrusted

MIB = 1024 * 1024
V = "backup/volume/"
IDMAP = '[{"Isuid":true,"Isgid":false,"Hostid":1000000,"Nsid":0,"Maprange":65536}]'


def renew(state: bytes, *, before: bytes = b"") -> tuple[bytes, Archive]:
    """What Incus is given of the state."""
    archive = Archive(io.BytesIO(before + state + b"after"), len(before), len(state), "old.taos")
    return b"".join(archive.renewed()) + bytes(1024), archive


def members(state: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(renew(state)[0]), mode="r:") as tar:
        return {one.name: one for one in tar}


def refused(state: bytes) -> str:
    with pytest.raises(Untrusted) as caught:
        renew(state)
    return caught.value.message


HOME: tuple[Entry, ...] = (
    entry(V + "abs", tarfile.SYMTYPE, linkname="/etc/passwd"),
    entry(V + "back\\slash"),
    folder(V + "backup"),
    folder(V + "backup/volume"),
    entry(V + "bad\udcff\udcfename", content=b"x"),
    folder(V + "d", mode=0o2775),
    entry(V + "d/f", content=b"hi\n" * 400, uid=3_000_000, gid=3_000_000),
    entry(V + "fifo", tarfile.FIFOTYPE),
    entry(V + "hard", tarfile.LNKTYPE, linkname=V + "d/f"),
    folder(V + "l" * 200),
    entry(V + "l" * 200 + "/" + "m" * 200, content=b"deep"),
    entry(V + "new\nline", mtime=-5.25),
    entry(V + "suid", mode=0o4755, pax_headers={"SCHILY.xattr.security.capability": "\1\0\0\2"}),
    entry(V + "up", tarfile.SYMTYPE, linkname="../../.."),
    entry(V + "whiteout", tarfile.CHRTYPE),
    entry(V + "xattr", pax_headers={"SCHILY.xattr.user.note": "\udcff\0=\n"}),
    entry(V + "ünï"),
)


@pytest.mark.parametrize("packed", [True, False])
def test_all_that_a_home_may_hold_comes_through(packed: bool) -> None:
    state = pack_volume({"volatile.idmap.last": IDMAP, "user.x": "mine"}, *HOME)
    new, archive = renew(gzip.compress(state) if packed else state, before=b"12345")
    assert archive.tally == Tally(len(HOME), 1200 + 1 + 4)
    with tarfile.open(fileobj=io.BytesIO(new), mode="r:") as tar:
        got = {one.name: one for one in tar}
        index = tar.extractfile("backup/index.yaml")
        assert index
        told = index.read().decode()
        assert IDMAP in told.replace("\\", "")
        assert "mine" not in told
        inside = tar.extractfile(V + "d/f")
        assert inside
        assert inside.read() == b"hi\n" * 400
    assert list(got)[1:] == ["backup/volume", *(member.name for member, _ in HOME)]
    assert got[V + "d/f"].uid == 3_000_000
    assert got[V + "abs"].linkname == "/etc/passwd"
    assert got[V + "hard"].linkname == V + "d/f"
    assert got[V + "xattr"].pax_headers["SCHILY.xattr.user.note"] == "\udcff\0=\n"


def test_what_gives_more_rights_is_left_out() -> None:
    got = members(gzip.compress(pack_volume({}, *HOME)))
    assert not any(one.mode & 0o6000 for one in got.values())
    assert got[V + "d"].mode == 0o775
    assert "SCHILY.xattr.security.capability" not in got[V + "suid"].pax_headers


def test_sticky_folders_stay_sticky() -> None:
    state = gzip.compress(pack_volume({}, folder(V + "tmp", mode=0o1777)))
    assert members(state)[V + "tmp"].mode == 0o1777


DEVICE = entry(V + "sda", tarfile.BLKTYPE, devmajor=8, mode=0o666)
HOSTILE: dict[str, tuple[Entry, ...]] = {
    "a block device": (DEVICE,),
    "a character device": (entry(V + "mem", tarfile.CHRTYPE, devmajor=1, devminor=1),),
    "a character device of number 0:1": (entry(V + "c", tarfile.CHRTYPE, devminor=1),),
    "a contiguous file": (entry(V + "c", tarfile.CONTTYPE),),
    "a sparse file": (entry(V + "c", tarfile.GNUTYPE_SPARSE),),
    "a long name of GNU": (entry("x", tarfile.GNUTYPE_LONGNAME, b"y"), entry(V + "a")),
    "a global header": (entry("x", tarfile.XGLTYPE, b"14 path=/etc/x\n"), entry(V + "a")),
    "an old regular file": (entry(V + "a", tarfile.AREGTYPE),),
    "an absolute name": (entry("/etc/passwd"),),
    "a name that climbs": (entry(V + "../x"),),
    "a name that climbs deep inside": (folder(V + "a"), entry(V + "a/../../../x")),
    "a dot": (entry(V + "./x"),),
    "two slashes": (entry("backup/volume//x"),),
    "another volume": (folder("backup/volume-snapshots"), entry("backup/volume-snapshots/a")),
    "a btrfs stream": (entry("backup/volume.bin"),),
    "a block volume": (entry("backup/volume.img"),),
    "a second index": (entry("backup/index.yaml"),),
    "a second root": (folder("backup/volume"),),
    "a file twice": (entry(V + "a"), entry(V + "a")),
    "a file again later": (entry(V + "a"), entry(V + "b"), entry(V + "a")),
    "a folder over a link": (entry(V + "a", tarfile.SYMTYPE, linkname="/etc"), folder(V + "a")),
    "through a link": (entry(V + "a", tarfile.SYMTYPE, linkname="/etc"), entry(V + "a/shadow")),
    "through a file": (entry(V + "a"), entry(V + "a/b")),
    "back in a closed folder": (folder(V + "a"), folder(V + "b"), entry(V + "a/x")),
    "no folder before it": (entry(V + "a/x"),),
    "a hard link to the host": (entry(V + "a", tarfile.LNKTYPE, linkname="/etc/shadow"),),
    "a hard link that climbs": (entry(V + "a", tarfile.LNKTYPE, linkname=V + "../index.yaml"),),
    "a hard link to the index": (entry(V + "a", tarfile.LNKTYPE, linkname="backup/index.yaml"),),
    "a hard link to what follows": (entry(V + "a", tarfile.LNKTYPE, linkname=V + "b"),
                                    entry(V + "b")),
    "a hard link through a link": (
        entry(V + "a", tarfile.SYMTYPE, linkname="/etc"),
        entry(V + "b", tarfile.LNKTYPE, linkname=V + "a/shadow"),
    ),
    "a hard link to a link": (
        entry(V + "a", tarfile.SYMTYPE, linkname="/etc"),
        entry(V + "b", tarfile.LNKTYPE, linkname=V + "a"),
    ),
    "a link to nowhere": (entry(V + "a", tarfile.SYMTYPE),),
    "a folder with content": (entry(V + "a", tarfile.DIRTYPE, bytes(512)),),
    "a FIFO with content": (entry(V + "a", tarfile.FIFOTYPE, bytes(512)),),
    "a file with a target": (entry(V + "a", linkname="b"),),
    "GNU's sparse records": (entry(V + "a", pax_headers={"GNU.sparse.realsize": "99999999999"}),),
    "another name": (entry(V + "a", pax_headers={"GNU.sparse.name": "/etc/passwd"}),),
    "another character set": (entry(V + "a", pax_headers={"hdrcharset": "ISO-IR 8859 1 1998"}),),
    "a path record that climbs": (entry(V + "a", pax_headers={"path": V + "../../x"}),),
    "a path record with a NUL": (entry(V + "a", pax_headers={"path": V + "a\0b"}),),
    "a size that is none": (entry(V + "a", pax_headers={"size": "-1"}),),
    "a size of words": (entry(V + "a", pax_headers={"size": "1e3"}),),
    "a size beyond the end": (entry(V + "a", pax_headers={"size": "9999999"}),),
    "nobody's number": (entry(V + "a", pax_headers={"uid": str(2**32 - 1)}),),
    "a time without end": (entry(V + "a", pax_headers={"mtime": "1e999"}),),
    "a time that is none": (entry(V + "a", pax_headers={"mtime": "nan"}),),
    "a name without end": (entry(V + "n" * 9000),),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_export_holds_is_refused(what: str) -> None:
    state = pack_volume({}, *HOSTILE[what])
    assert "old.taos" in refused(gzip.compress(state))
    refused(state)


def test_the_device_is_named() -> None:
    said = refused(gzip.compress(pack_volume({}, DEVICE)))
    assert "a block device" in said
    assert "'backup/volume/sda'" in said


INDEX = index_of({})


@pytest.mark.parametrize(
    "index",
    [
        INDEX.replace("optimized: false", "optimized: true"),
        INDEX.replace("optimized_header: false", "optimized_header: true"),
        INDEX.replace("type: custom", "type: container", 1),
        INDEX.replace("content_type: filesystem", "content_type: block"),
        INDEX + "snapshots:\n- snap0\n",
        INDEX + "snapshots: [snap0]\n",
        index_of({"volatile.idmap.last": "[1]"}),
        index_of({"volatile.idmap.last": '[{"Isuid":true}]'}),
        index_of({"volatile.idmap.last": IDMAP.replace("65536", "-1")}),
        index_of({"volatile.idmap.last": IDMAP.replace("65536", "99999999999")}),
        index_of({"volatile.idmap.last": "[" * 5000 + "]"}),
        INDEX + f"      volatile.idmap.last: '{IDMAP}'\n" * 2,
        INDEX + "#" * 300_000,
    ],
)  # fmt: skip
def test_an_index_of_something_else_is_refused(index: str) -> None:
    refused(pack_volume({}, index=index))


KEYS = ("size", "security.shifted", "security.unmapped", "initial.uid", "block.filesystem",
        "snapshots.schedule", "user.taos.kept", "volatile.uuid")  # fmt: skip


def test_no_key_of_the_file_reaches_incus() -> None:
    new, _ = renew(pack_volume(dict.fromkeys(KEYS, "true") | {"volatile.idmap.next": IDMAP}))
    assert not any(key.encode() in new for key in KEYS)
    assert b"volatile.idmap.next" in new


GOOD = pack_volume({}, folder(V + "d"), entry(V + "d/f", content=b"x" * 700))
PAX = "PaxHeaders"


@pytest.mark.parametrize(
    "state",
    [
        GOOD[:-1024],  # no end
        GOOD[:1500],
        GOOD + b"x",
        GOOD + bytes(100_000),
        GOOD + GOOD,
        gzip.compress(GOOD) + b"x",
        gzip.compress(GOOD) + gzip.compress(b""),
        gzip.compress(GOOD)[:-9],
        gzip.compress(GOOD)[:-1] + b"x",
        gzip.compress(GOOD + GOOD),
        pack([entry("backup/index.yaml", content=INDEX.encode())]),
        pack([folder("backup/volume"), entry("backup/index.yaml", content=INDEX.encode())]),
        pack([entry("backup/index.yaml", content=INDEX.encode()), entry("backup/volume")]),
        pack([entry("index.yaml", content=INDEX.encode()), folder("backup/volume")]),
        GOOD.replace(b"ustar\x0000", b"ustar  \0"),
        GOOD.replace(b"backup/volume/d/\0", b"backup/volume/e/\0", 1),  # the check sum is another
    ],
)
def test_half_an_archive_or_more_than_one_is_refused(state: bytes) -> None:
    with pytest.raises((Untrusted, InvalidInput)):
        renew(bytes(state))


@pytest.mark.parametrize(
    "packed",
    [
        b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"hsqs", b"", b"PK\3\4",
        zlib.compress(GOOD), bytes(2048),
    ],
)  # fmt: skip
def test_packed_in_another_way(packed: bytes) -> None:
    with pytest.raises(InvalidInput):
        renew(packed)


@pytest.mark.parametrize(
    "records",
    [
        b"9 path=a\n" * 2, b"99 path=a\n", b"x path=a\n", b"0 path=a\n", b"7 path\n",
        b"9 path=ab", b"-9 path=a\n", b"\n", b"10 =value\n", b"9999999999999 path=a\n",
        b"9 paTh=a\n",
    ],
)  # fmt: skip
def test_extended_headers_that_cannot_be_read(records: bytes) -> None:
    refused(pack_volume({}, entry(PAX, b"x", records), entry(V + "a")))


def test_extended_headers_upon_each_other() -> None:
    one = entry(PAX, b"x", b"12 uname=ab\n")
    refused(pack_volume({}, one, one, entry(V + "a")))


def test_a_huge_extended_header_is_not_read() -> None:
    huge = tarfile.TarInfo(PAX)
    huge.type, huge.size = b"x", 1 << 33
    refused(pack_volume({}, (huge, b"")))


def test_a_large_state_takes_little_memory() -> None:
    state = gzip.compress(pack_volume({}, entry(V + "zeros", content=bytes(64 * MIB))), 1)
    archive = Archive(io.BytesIO(state), 0, len(state), "old.taos")
    tracemalloc.start()
    got = sum(map(len, archive.renewed()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got > 64 * MIB
    assert peak < 12 * MIB


def test_the_digest_is_of_all_that_was_read() -> None:
    state = gzip.compress(GOOD)
    _, archive = renew(state, before=bytes(512))
    assert archive.sha256 == hashlib.sha256(state).hexdigest()
    assert archive.position == len(state)


def is_harmless(new: bytes) -> None:
    """What Incus gets is unambiguous, below the volume, and holds nothing that gives rights."""
    with tarfile.open(fileobj=io.BytesIO(new), mode="r:") as tar:
        seen: dict[str, bytes] = {}
        for one in tar:
            name = one.name
            assert name not in seen
            assert name == "backup/index.yaml" or f"{name}/".startswith(V)
            assert not {"", ".", ".."} & set(name.split("/"))
            if name.startswith(V):
                assert seen[name.rpartition("/")[0]] == tarfile.DIRTYPE
            assert not one.mode & 0o6000
            assert one.type != tarfile.BLKTYPE
            assert one.type != tarfile.CHRTYPE or (one.devmajor, one.devminor) == (0, 0)
            if one.type == tarfile.LNKTYPE:
                assert seen[one.linkname] == tarfile.REGTYPE
            keys = {key for key in one.pax_headers if key.startswith("SCHILY")}
            assert all(key.startswith("SCHILY.xattr.user.") for key in keys)
            seen[name] = one.type


FULL = pack_volume({"volatile.idmap.last": IDMAP}, *HOME)
NAMES = st.sampled_from(["a", "b", "..", ".", "", "/etc", "a/b", "é", "x" * 120, "\udcff"])
ENTRIES = st.builds(
    lambda parts, kind, link, content, mode, major, pax: entry(
        "/".join(["backup", "volume", *parts]), kind, content if kind == b"0" else b"",
        linkname=link if kind in (b"1", b"2") else "", mode=mode, devmajor=major, pax_headers=pax,
    ),
    st.lists(NAMES, min_size=1, max_size=3), st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6"]),
    st.sampled_from([V + "a", V + "a/b", "/etc/passwd", "..", "b"]), st.binary(max_size=600),
    st.integers(0, 0o7777), st.sampled_from([0, 0, 8]),
    st.dictionaries(st.sampled_from(["SCHILY.xattr.user.a", "SCHILY.xattr.trusted.b", "uname"]),
                    st.text(max_size=5), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(ENTRIES, max_size=6))
def test_whatever_is_in_it_incus_gets_only_the_harmless(entries: list[Entry]) -> None:
    try:
        new, _ = renew(pack_volume({}, *entries))
    except TaosError:
        return
    is_harmless(new)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.booleans())
@example(0, 1, True)
def test_whatever_was_changed_in_it(seed: int, changes: int, packed: bool) -> None:
    chance = random.Random(seed)
    state = bytearray(gzip.compress(FULL, mtime=0) if packed else FULL)
    for _ in range(changes):
        state[chance.randrange(len(state))] = chance.randrange(256)
    if chance.random() < 0.3:
        del state[chance.randrange(len(state)) :]
    try:
        new, _ = renew(bytes(state))
    except TaosError:
        return
    is_harmless(new)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000), st.booleans())
def test_whatever_the_bytes_are(content: bytes, packed: bool) -> None:
    with pytest.raises(TaosError):
        renew(gzip.compress(content) if packed else content)
