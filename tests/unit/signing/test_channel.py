"""What a client believes: attacks on a channel, one sentence each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from tests.unit.signing.channels import MemoryChannel, image_of, no_passphrase, target_of
from tinyagentos.model.errors import HostNotReady, NotFound, Unavailable, Untrusted
from tinyagentos.model.release import (
    Expired,
    Malformed,
    RolledBack,
    TooFewSignatures,
    WrongContent,
    WrongKeys,
)
from tinyagentos.signing.channel import METADATA_LIMIT, Channel, directory, trusted_root
from tinyagentos.signing.keys import LIFETIME, load_roots, load_signer, rotate_key
from tinyagentos.signing.repository import Target, read_published, sign_release

NOW = datetime.now(UTC)
OLD, NEW = image_of(b"old", 1), image_of(b"new", 2)


@pytest.fixture
def channel(tmp_path: Path) -> MemoryChannel:
    return MemoryChannel(tmp_path / "keys", NOW).begin()


def test_a_client_sees_what_was_shown(channel: MemoryChannel, tmp_path: Path) -> None:
    channel.show(OLD, NEW)
    index = channel.client(tmp_path / "state").refresh()
    assert index.images == (OLD, NEW) or index.images == (NEW, OLD)
    assert index.newest("openclaw", "x64") == NEW
    assert index.version == 1
    assert index.expires == (NOW + LIFETIME["timestamp"]).replace(microsecond=0)


def test_it_is_remembered_without_asking(channel: MemoryChannel, tmp_path: Path) -> None:
    channel.show(OLD)
    client = channel.client(tmp_path / "state")
    index = client.refresh()
    channel.files.clear()
    channel.asked.clear()
    assert client.remembered() == index
    assert not channel.asked
    with pytest.raises(Unavailable):
        client.refresh()
    with pytest.raises(Unavailable):
        channel.client(tmp_path / "fresh").remembered()


def test_a_channel_may_be_a_folder(channel: MemoryChannel, tmp_path: Path) -> None:
    channel.show(OLD)
    folder = tmp_path / "channel"
    folder.mkdir()
    for name, content in channel.files.items():
        (folder / name).write_bytes(content)
    root = trusted_root(channel.keys / "1.root.json")
    assert Channel(root, tmp_path / "state", directory(folder)).refresh().images == (OLD,)


def test_the_timestamp_before_stands_in_while_the_new_one_is_put_in_place(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    channel.show(OLD)
    channel.files["previous.timestamp.json"] = channel.files.pop("timestamp.json")
    assert channel.client(tmp_path / "state").refresh().images == (OLD,)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_what_has_expired_is_not_used(channel: MemoryChannel, tmp_path: Path, role: str) -> None:
    channel.lifetime[role] = timedelta(seconds=-1)
    channel.show(OLD)
    with pytest.raises(Expired, match=role) as caught:
        channel.client(tmp_path / "state").refresh()
    assert caught.value.code == "untrusted"


def test_a_root_that_has_expired_is_followed_to_the_one_that_has_not(tmp_path: Path) -> None:
    then = NOW - LIFETIME["root"] - timedelta(days=1)
    channel = MemoryChannel(tmp_path / "keys", then).begin()
    channel.lifetime = dict.fromkeys(LIFETIME, timedelta(days=700))
    channel.show(OLD)
    with pytest.raises(Expired, match="root"):
        channel.client(tmp_path / "state").refresh()
    rotate_key(channel.keys, "root", no_passphrase, NOW)
    channel.now = NOW
    channel.show(NEW)
    assert channel.client(tmp_path / "state").refresh().images == (NEW,)


def test_an_older_version_than_was_seen_is_refused(channel: MemoryChannel, tmp_path: Path) -> None:
    channel.show(OLD)
    before = dict(channel.files)
    channel.show(NEW)
    client = channel.client(tmp_path / "state")
    client.refresh()
    channel.files = before
    with pytest.raises(RolledBack):
        client.refresh()
    assert client.remembered().images == (NEW,)


def test_another_channels_metadata_is_refused(channel: MemoryChannel, tmp_path: Path) -> None:
    other = MemoryChannel(tmp_path / "others", NOW).begin()
    other.show(NEW)
    channel.show(OLD)
    with pytest.raises(WrongKeys):
        Channel(
            (channel.keys / "1.root.json").read_bytes(), tmp_path / "state", other.fetch
        ).refresh()


def test_too_few_signatures_are_refused(channel: MemoryChannel, tmp_path: Path) -> None:
    channel.show(OLD)
    first = load_roots(channel.keys)[0]
    signer = load_signer(channel.keys, "root", first.root, no_passphrase)
    root = Root.from_dict(first.metadata.to_dict()["signed"])
    root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    root.version, root.roles["timestamp"].threshold = 2, 2
    second = Metadata(root)
    second.sign(signer)
    channel.files["2.root.json"] = second.to_bytes()
    with pytest.raises(TooFewSignatures):
        channel.client(tmp_path / "state").refresh()


def test_metadata_that_does_not_end_is_not_read_to_its_end(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    channel.show(OLD)
    read = 0

    def endless(name: str):
        nonlocal read
        if name != "timestamp.json":
            yield from channel.fetch(name)
            return
        while True:
            read += 1024
            yield b" " * 1024

    with pytest.raises(WrongContent):
        Channel((channel.keys / "1.root.json").read_bytes(), tmp_path / "state", endless).refresh()
    assert read <= METADATA_LIMIT


@pytest.mark.parametrize("spoil", ["truncate", "flip", "swap", "empty", "nonsense"])
@pytest.mark.parametrize("name", ["1.targets.json", "1.snapshot.json", "timestamp.json"])
def test_spoiled_metadata_is_refused(
    channel: MemoryChannel, tmp_path: Path, name: str, spoil: str
) -> None:
    channel.show(OLD)
    content = channel.files[name]
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    channel.files[name] = {
        "truncate": content[:-20],
        "flip": bytes(flipped),
        "swap": channel.files["1.root.json"],
        "empty": b"",
        "nonsense": b"[" * 5000,
    }[spoil]
    with pytest.raises(Untrusted):
        channel.client(tmp_path / "state").refresh()


@pytest.mark.parametrize("name", ["1.targets.json", "1.snapshot.json", "timestamp.json"])
def test_missing_metadata_is_unavailable(channel: MemoryChannel, tmp_path: Path, name: str) -> None:
    channel.show(OLD)
    del channel.files[name]
    with pytest.raises(Unavailable):
        channel.client(tmp_path / "state").refresh()


def test_a_source_that_cannot_be_reached_says_so_itself(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    def broken(name: str):
        raise Unavailable("no route to the channel")
        yield b""

    with pytest.raises(Unavailable, match="no route to the channel"):
        Channel((channel.keys / "1.root.json").read_bytes(), tmp_path / "state", broken).refresh()


def signed_by_us(channel: MemoryChannel, *targets: Target) -> None:
    roots = load_roots(channel.keys)
    published = read_published(channel.fetch, roots)
    release = sign_release(
        channel.keys, roots, published, targets, version=1, ask=no_passphrase, now=NOW
    )
    channel.files |= {file.name: file.content for file in release.files}


def test_a_path_as_a_name_is_refused_whoever_signed_it(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    signed_by_us(channel, Target("../../etc/cron.d/x", "a" * 64, 5))
    with pytest.raises(Malformed, match="is called"):
        channel.client(tmp_path / "state").refresh()


def test_an_image_described_as_another_file_is_refused(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    signed_by_us(channel, Target(OLD.name, OLD.fingerprint, OLD.size_bytes, NEW.dump()))
    with pytest.raises(Malformed, match="two things"):
        channel.client(tmp_path / "state").refresh()


def test_what_a_later_taos_publishes_is_passed_over(channel: MemoryChannel, tmp_path: Path) -> None:
    signed_by_us(channel, target_of(OLD), Target("x.delta", "a" * 64, 5, {"kind": "delta"}))
    index = channel.client(tmp_path / "state").refresh()
    assert index.images == (OLD,)
    assert not index.documents


def test_spoiled_state_is_made_again(channel: MemoryChannel, tmp_path: Path) -> None:
    channel.show(OLD)
    client = channel.client(tmp_path / "state")
    client.refresh()
    for path in (tmp_path / "state").glob("*.json"):
        path.write_bytes(b"{")
    assert client.refresh().images == (OLD,)


def test_state_that_cannot_be_kept_says_so(channel: MemoryChannel, tmp_path: Path) -> None:
    channel.show(OLD)
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(HostNotReady):
        channel.client(tmp_path / "state").refresh()


def test_without_a_root_there_is_no_trust(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="cannot be read"):
        trusted_root(tmp_path / "none.json")
    with pytest.raises(HostNotReady, match="no root to trust"):
        trusted_root(None, tmp_path)
    for version in (9, 10):
        (tmp_path / f"{version}.root.json").write_text(str(version))
    assert trusted_root(None, tmp_path) == b"10"
    assert trusted_root(tmp_path / "9.root.json", tmp_path) == b"9"
    with pytest.raises(NotFound):
        list(directory(tmp_path)("timestamp.json"))
