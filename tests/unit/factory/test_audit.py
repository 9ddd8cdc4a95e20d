"""Verifying a channel: no file of it can be spoiled without being found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.unit.factory.releases import make_image, make_large_image
from tests.unit.signing.channels import no_passphrase
from tinyagentos.factory.audit import verify_channel, verify_file
from tinyagentos.factory.publish import publish
from tinyagentos.factory.shelf import DirectoryShelf
from tinyagentos.model.errors import InvalidInput, Unavailable, Untrusted
from tinyagentos.model.release import WrongContent, WrongKeys
from tinyagentos.signing.keys import init_keys, rotate_key

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel of two versions with a rotation between, and an image of several chunks."""
    home = tmp_path_factory.mktemp("made")
    init_keys(home / "keys", no_passphrase, NOW)
    for image in (make_image(home / "first"), make_large_image(home / "second")):
        publish(
            [image], DirectoryShelf(home / "channel"), home / "keys",
            ask=no_passphrase, now=NOW, keep=1,
        )  # fmt: skip
        rotate_key(home / "keys", "targets", no_passphrase, NOW)
    return home


@pytest.fixture
def channel(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "channel", tmp_path / "channel")


@pytest.fixture
def root(made: Path) -> bytes:
    return (made / "keys" / "1.root.json").read_bytes()


def test_a_sound_channel_is_verified_to_its_last_file(channel: Path, root: bytes) -> None:
    (channel / "README.md").write_text("hello")
    audit = verify_channel(channel, root)
    assert audit.others == ("README.md",)
    assert {*audit.verified, *audit.others} == {path.name for path in channel.iterdir()}
    assert len(audit.verified) == 3 + 4 + 1 + 6
    assert len(audit.index.images) == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def swap(path: Path) -> None:
    """Its content is that of another file of its kind, or of any other."""
    kind = path.name.split(".", 1)[1]
    others = [one for one in sorted(path.parent.iterdir()) if one != path]
    fitting = [one for one in others if one.name.split(".", 1)[1] == kind]
    path.write_bytes((fitting or others)[0].read_bytes())


def remove(path: Path) -> None:
    path.unlink()


# Of the version before, which clients may be at: what is left of it is verified.
KINDS = (
    "1.root.json", "2.root.json", "3.root.json", "1.targets.json", "1.snapshot.json",
    "2.targets.json", "2.snapshot.json", "timestamp.json",
    "*.tar.zst", "*.lock.json", "*.cdx.json",
)  # fmt: skip


@pytest.mark.parametrize("spoil", [truncate, flip, lengthen, swap])
@pytest.mark.parametrize("name", KINDS)
def test_a_spoiled_file_is_found_out(
    channel: Path, root: bytes, name: str, spoil: Callable[[Path], None]
) -> None:
    paths = sorted(channel.glob(name))
    assert paths
    for path in paths:
        before = path.read_bytes()
        spoil(path)
        with pytest.raises((Untrusted, Unavailable)):
            verify_channel(channel, root)
        path.write_bytes(before)
    verify_channel(channel, root)


def test_a_file_that_was_taken_away_is_found_out(channel: Path, root: bytes) -> None:
    index = verify_channel(channel, root).index
    needed = {one.file_name for one in (*index.images, *index.documents)}
    needed |= {"1.root.json", "2.root.json", "2.targets.json", "2.snapshot.json", "timestamp.json"}
    for name in sorted(needed):
        before = (channel / name).read_bytes()
        remove(channel / name)
        with pytest.raises((Untrusted, Unavailable)):
            verify_channel(channel, root)
        (channel / name).write_bytes(before)
    verify_channel(channel, root)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(KINDS), part=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_of_any_file_can_be_turned(
    made: Path, channel: Path, root: bytes, name: str, part: float, bit: int
) -> None:
    path = sorted(channel.glob(name))[0]
    before = path.read_bytes()
    content = bytearray(before)
    content[int(part * len(content))] ^= 1 << bit
    # A signature in capitals is the same number: nothing is said otherwise than it was signed.
    assume(not name.endswith("json") or content.lower() != before.lower())
    path.write_bytes(content)
    try:
        with pytest.raises((Untrusted, Unavailable)):
            verify_channel(channel, root)
    finally:
        path.write_bytes(before)


def test_the_place_of_the_damage_in_an_image_is_named(channel: Path, root: bytes) -> None:
    path = max(channel.glob("*.tar.zst"), key=lambda one: one.stat().st_size)
    content = bytearray(path.read_bytes())
    content[5 << 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(WrongContent, match="in the 4194304 from 4194304"):
        verify_channel(channel, root)


def test_another_publishers_root_verifies_nothing(channel: Path, tmp_path: Path) -> None:
    other = init_keys(tmp_path / "others", no_passphrase, NOW)
    with pytest.raises(WrongKeys):
        verify_channel(channel, other.content)


def test_what_is_no_channel_is_said(tmp_path: Path, root: bytes) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        verify_channel(tmp_path / "none", root)
    with pytest.raises(Unavailable):
        verify_channel(tmp_path, root)


def test_one_file_is_verified_by_the_metadata_beside_it_or_elsewhere(
    made: Path, channel: Path, root: bytes, tmp_path: Path
) -> None:
    built = made / "second" / "openclaw-1.0-x64.tar.zst"
    image, _ = verify_file(built, channel, root)
    assert verify_file(channel / image.file_name, channel, root)[0] == image
    with pytest.raises(WrongContent, match="is not an image of this channel"):
        verify_file(made / "first" / "openclaw-1.0-x64.tar.zst", channel, root)
    copy = tmp_path / image.name
    copy.write_bytes(built.read_bytes()[:-7])
    with pytest.raises(WrongContent, match="bytes, but"):
        verify_file(copy, channel, root)
    with pytest.raises(InvalidInput, match="no file"):
        verify_file(tmp_path / "none", channel, root)


def test_metadata_that_only_looks_like_itself_is_found_out(channel: Path, root: bytes) -> None:
    # The version in the name of an old file is another than the one that was signed.
    (channel / "1.targets.json").rename(channel / "7.targets.json")
    with pytest.raises(Untrusted, match=r"7\.targets\.json is not what its name says"):
        verify_channel(channel, root)
    (channel / "7.targets.json").unlink()
    forged = json.loads((channel / "1.snapshot.json").read_text())
    forged["signed"]["version"] = 8
    (channel / "8.snapshot.json").write_text(json.dumps(forged))
    with pytest.raises(WrongKeys, match=r"8\.snapshot\.json is signed with none"):
        verify_channel(channel, root)
