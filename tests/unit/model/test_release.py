"""Descriptions of images: what was written is read again, anything malformed is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.model.release import (
    CHUNK_BYTES,
    Document,
    ImageTarget,
    Index,
    Malformed,
    check_index,
    is_image,
    parse_document,
    parse_image_target,
)

NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)


def image(**changes: Any) -> ImageTarget:
    values: dict[str, Any] = {
        "framework": "openclaw",
        "version": "2026.9.6",
        "arch": "x64",
        "fingerprint": "a" * 64,
        "size_bytes": CHUNK_BYTES + 1,
        "unpacked_bytes": 10,
        "chunk_bytes": CHUNK_BYTES,
        "chunks": ("b" * 64, "c" * 64),
        "recipe": "d" * 64,
        "released": NOW,
        "sequence": 7,
    }
    return ImageTarget(**values | changes)


@st.composite
def images(draw: st.DrawFn) -> ImageTarget:
    size = draw(st.integers(1, 40 * CHUNK_BYTES))
    return image(
        framework=draw(st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,20}\Z")),
        version=draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")),
        arch=draw(st.sampled_from(["x64", "arm64"])),
        fingerprint=draw(digests),
        size_bytes=size,
        unpacked_bytes=draw(st.integers(0, 1 << 40)) % (1 << 38),
        chunks=tuple(["e" * 64] * -(-size // CHUNK_BYTES)),
        released=draw(st.integers(0, 1 << 32).map(lambda at: datetime.fromtimestamp(at, UTC))),
        sequence=draw(st.integers(1, (1 << 53) - 1)),
        lock=draw(st.sampled_from(["", "a.lock.json"])),
    )


@given(images())
def test_what_was_written_is_read_again(one: ImageTarget) -> None:
    assert is_image(one.dump())
    assert parse_image_target(one.dump()) == one
    assert "/" not in one.file_name
    assert one.file_name.startswith(one.fingerprint)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("framework", "../openclaw"),
        ("framework", ""),
        ("framework", 5),
        ("version", "1/2"),
        ("version", "1.0\n"),
        ("version", ".."),
        ("arch", "mips"),
        ("fingerprint", "A" * 64),
        ("fingerprint", "a" * 63),
        ("size_bytes", -1),
        ("size_bytes", 0),
        ("size_bytes", "5"),
        ("size_bytes", 5.0),
        ("size_bytes", 1 << 60),
        ("size_bytes", 2 * CHUNK_BYTES + 1),
        ("unpacked_bytes", -1),
        ("chunk_bytes", 0),
        ("chunk_bytes", 1),
        ("chunks", []),
        ("chunks", ["b" * 64]),
        ("chunks", ["b" * 64, "c" * 64, "d" * 64]),
        ("chunks", ["b" * 64, "c" * 63]),
        ("chunks", "b" * 128),
        ("recipe", None),
        ("released", "2026-11-20"),
        ("released", "2026-11-20T12:00:00"),
        ("released", "2026-11-20T12:00:00+02:00"),
        ("released", 1763640000),
        ("sequence", 0),
        ("sequence", True),
        ("sequence", 1 << 60),
        ("lock", "a/b.json"),
        ("sbom", "../../etc/passwd"),
        ("sbom", ".."),
        ("kind", "kernel"),
        ("format", 2),
    ],
)
def test_anything_malformed_is_refused(key: str, value: object) -> None:
    with pytest.raises(Malformed):
        parse_image_target(image().dump() | {key: value})


@pytest.mark.parametrize("key", sorted(set(image().dump()) - {"lock", "sbom"}))
def test_anything_missing_is_refused(key: str) -> None:
    custom = {name: value for name, value in image().dump().items() if name != key}
    with pytest.raises(Malformed):
        parse_image_target(custom)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_other_things_are_refused_and_not_tripped_over(custom: object) -> None:
    assert not is_image(custom)
    with pytest.raises(Malformed):
        parse_image_target(custom)


def test_what_a_later_version_adds_is_no_hindrance() -> None:
    assert parse_image_target(image().dump() | {"delta_of": "f" * 64}) == image()


def test_newer_is_what_was_released_later_and_not_what_has_the_higher_version() -> None:
    broken, again = image(version="2.0", sequence=7), image(version="1.0", sequence=8)
    assert again.newer(broken)
    assert not broken.newer(again)
    assert not broken.newer(broken)
    other = image(arch="arm64", sequence=9)
    index = Index(1, NOW, (broken, other, again))
    assert index.newest("openclaw", "x64") is again
    assert index.history("openclaw", "x64") == (again, broken)
    assert index.newest("hermes", "x64") is None


def test_an_index_names_only_what_it_has() -> None:
    lock = Document("a.lock.json", "f" * 64, 3)
    check_index((image(lock="a.lock.json"),), (lock,))
    with pytest.raises(Malformed, match=r"a\.lock\.json, which is not in the channel"):
        check_index((image(lock="a.lock.json"),), ())
    with pytest.raises(Malformed, match="the number 7"):
        check_index((image(), image(fingerprint="c" * 64)), ())


@pytest.mark.parametrize(
    ("name", "digest"), [("a/b", "a" * 64), ("..", "a" * 64), ("", "a" * 64), ("a", "x" * 64)]
)
def test_a_document_has_a_plain_name(name: str, digest: str) -> None:
    with pytest.raises(Malformed):
        parse_document(name, digest, 1)
