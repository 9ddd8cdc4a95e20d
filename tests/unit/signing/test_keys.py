"""Keys: made, kept to their owner, changed without a client noticing."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.signing.channels import MemoryChannel, image_of, no_passphrase
from tinyagentos.model.errors import Conflict, HostNotReady, InvalidInput
from tinyagentos.model.release import Expired, Untrusted, WrongKeys
from tinyagentos.signing.keys import (
    LIFETIME,
    ONLINE_ROLES,
    ROLES,
    check_root_age,
    init_keys,
    key_path,
    load_roots,
    load_signer,
    rotate_key,
)
from tinyagentos.signing.repository import read_published

NOW = datetime.now(UTC)
OLD, NEW = image_of(b"old", 1), image_of(b"new", 2)


@pytest.fixture
def channel(tmp_path: Path) -> MemoryChannel:
    return MemoryChannel(tmp_path / "keys", NOW).begin()


def test_every_role_has_a_key_of_its_own_that_only_its_owner_reads(channel: MemoryChannel) -> None:
    root = load_roots(channel.keys)[0].root
    ids = [root.roles[role].keyids for role in ROLES]
    assert len({one for (one,) in ids}) == len(ROLES)
    for role in ROLES:
        assert stat.S_IMODE(key_path(channel.keys, role).stat().st_mode) == 0o600
        assert stat.S_IMODE(key_path(channel.keys, role).parent.stat().st_mode) == 0o700
    assert key_path(channel.keys, "root").parent.name == "offline"
    assert root.expires == (NOW + LIFETIME["root"]).replace(microsecond=0)


def test_keys_are_never_written_over(channel: MemoryChannel) -> None:
    before = key_path(channel.keys, "root").read_bytes()
    with pytest.raises(Conflict, match=r"root\.pem"):
        init_keys(channel.keys, no_passphrase, NOW)
    assert key_path(channel.keys, "root").read_bytes() == before


def test_a_passphrase_is_needed_again(tmp_path: Path) -> None:
    init_keys(tmp_path, lambda _: "a secret", NOW)
    root = load_roots(tmp_path)[0].root
    assert b"ENCRYPTED" in key_path(tmp_path, "targets").read_bytes()
    load_signer(tmp_path, "targets", root, lambda _: "a secret")
    for wrong in ("", "another"):
        with pytest.raises(WrongKeys, match="passphrase is missing or wrong"):
            load_signer(tmp_path, "targets", root, lambda _, wrong=wrong: wrong)


@pytest.mark.parametrize("role", ROLES)
def test_clients_follow_a_changed_key(channel: MemoryChannel, tmp_path: Path, role: str) -> None:
    channel.show(OLD)
    client = channel.client(tmp_path / "state")
    client.refresh()
    before = load_roots(channel.keys)[-1].root.roles[role].keyids
    made = rotate_key(channel.keys, role, no_passphrase, NOW)
    assert made[-1].root.roles[role].keyids != before
    assert set(before).isdisjoint(made[-1].root.roles[role].keyids)
    channel.show(NEW)
    assert client.refresh().images == (NEW,)
    assert channel.client(tmp_path / "fresh").refresh().images == (NEW,)
    newest = load_roots(channel.keys)[-1].version
    assert channel.client(tmp_path / "newest", root=newest).refresh().images == (NEW,)


@pytest.mark.parametrize("role", ROLES)
def test_every_file_of_a_change_may_be_the_last_that_appears(
    channel: MemoryChannel, tmp_path: Path, role: str
) -> None:
    channel.show(OLD)
    rotate_key(channel.keys, role, no_passphrase, NOW)
    release = channel.sign(NEW)
    client = channel.client(tmp_path / "state")
    seen = [client.refresh().images]
    for number, file in enumerate(release.files):
        channel.files[file.name] = file.content
        seen.append(client.refresh().images)
        assert channel.client(tmp_path / str(number)).refresh().images == seen[-1]
    turn = seen.index((NEW,))
    assert set(seen[:turn]) == {(OLD,)}
    assert set(seen[turn:]) == {(NEW,)}


def test_two_changes_at_once_are_followed_also_when_cut_off(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    channel.show(OLD)
    client = channel.client(tmp_path / "state")
    for _ in range(2):
        rotate_key(channel.keys, "timestamp", no_passphrase, NOW)
    release = channel.sign(NEW)
    assert [len(release.roots_before), len(release.roots_after)] == [1, 3]
    for file in (*release.roots_before, *release.metadata, release.timestamp):
        channel.files[file.name] = file.content
    again = channel.show(NEW)
    assert [len(again.roots_before), len(again.roots_after)] == [3, 0]
    assert client.refresh().images == (NEW,)


def test_many_changes_are_followed(channel: MemoryChannel, tmp_path: Path) -> None:
    client = channel.client(tmp_path / "state")
    for number, role in enumerate((*ROLES, *ROLES)):
        image = image_of(str(number).encode(), number + 1)
        channel.show(image)
        assert client.refresh().images == (image,)
        rotate_key(channel.keys, role, no_passphrase, NOW)
    channel.show(NEW)
    assert client.refresh().images == (NEW,)
    assert channel.client(tmp_path / "fresh").refresh().images == (NEW,)


@pytest.mark.parametrize("role", ROLES)
def test_a_change_that_was_cut_off_loses_no_key(
    channel: MemoryChannel, tmp_path: Path, role: str
) -> None:
    channel.show(OLD)
    path = key_path(channel.keys, role)
    old = path.read_bytes()
    made = rotate_key(channel.keys, role, no_passphrase, NOW)
    new = path.read_bytes()
    # As if cut off before the new key took the old one's name, with all roots there or none.
    path.with_name(f"{role}.next.pem").write_bytes(new)
    path.write_bytes(old)
    for one in made:
        (channel.keys / one.file.name).rename(channel.keys / f"{one.file.name}.away")
    assert len(load_roots(channel.keys)) == 1
    load_signer(channel.keys, role, load_roots(channel.keys)[-1].root, no_passphrase)
    for one in made:
        (channel.keys / f"{one.file.name}.away").rename(channel.keys / one.file.name)
    load_signer(channel.keys, role, load_roots(channel.keys)[-1].root, no_passphrase)
    assert path.read_bytes() == new
    channel.show(NEW)
    assert channel.client(tmp_path / "state").refresh().images == (NEW,)


@pytest.mark.parametrize("role", ONLINE_ROLES)
def test_a_key_that_is_not_the_channels_signs_nothing(
    channel: MemoryChannel, tmp_path: Path, role: str
) -> None:
    other = MemoryChannel(tmp_path / "others", NOW).begin()
    key_path(channel.keys, role).write_bytes(key_path(other.keys, role).read_bytes())
    with pytest.raises(WrongKeys, match=f"is not the {role} key that"):
        channel.sign(OLD)
    key_path(channel.keys, role).write_text("-----BEGIN NONSENSE-----")
    with pytest.raises(WrongKeys, match="cannot be opened"):
        channel.sign(OLD)
    key_path(channel.keys, role).unlink()
    with pytest.raises(HostNotReady, match="cannot be read"):
        channel.sign(OLD)


def test_the_offline_key_is_needed_to_change_keys_and_for_nothing_else(
    channel: MemoryChannel,
) -> None:
    key_path(channel.keys, "root").unlink()
    channel.show(OLD)
    with pytest.raises(HostNotReady, match="cannot be read"):
        rotate_key(channel.keys, "targets", no_passphrase, NOW)
    assert len(load_roots(channel.keys)) == 1


def test_nothing_is_signed_under_a_root_that_has_expired(channel: MemoryChannel) -> None:
    channel.now = NOW + LIFETIME["root"]
    with pytest.raises(Expired, match="was good until"):
        channel.sign(OLD)
    rotate_key(channel.keys, "root", no_passphrase, channel.now)
    check_root_age(load_roots(channel.keys)[-1].root, channel.now + timedelta(days=300))


def test_roots_that_do_not_follow_each_other_are_refused(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    other = MemoryChannel(tmp_path / "others", NOW).begin()
    rotate_key(other.keys, "root", no_passphrase, NOW)
    (channel.keys / "2.root.json").write_bytes((other.keys / "2.root.json").read_bytes())
    with pytest.raises(WrongKeys):
        load_roots(channel.keys)
    (channel.keys / "2.root.json").rename(channel.keys / "3.root.json")
    with pytest.raises(HostNotReady, match="1, 3"):
        load_roots(channel.keys)
    with pytest.raises(HostNotReady, match="no root"):
        load_roots(tmp_path / "nowhere")


def test_a_channel_of_other_keys_is_not_published_to(
    channel: MemoryChannel, tmp_path: Path
) -> None:
    other = MemoryChannel(tmp_path / "others", NOW).begin()
    other.show(OLD)
    with pytest.raises(WrongKeys, match="another"):
        read_published(other.fetch, load_roots(channel.keys))
    rotate_key(other.keys, "root", no_passphrase, NOW)
    roots = load_roots(other.keys)
    other.show(OLD)
    with pytest.raises(Conflict, match=r"2\.root\.json"):
        read_published(other.fetch, roots[:1])
    stranger = MemoryChannel(tmp_path / "strangers", NOW).begin()
    stranger.show(NEW)
    spoiled = other.files | {
        name: content for name, content in stranger.files.items() if "root" not in name
    }
    sound, other.files = other.files, spoiled
    with pytest.raises(WrongKeys, match="not signed with its keys"):
        read_published(other.fetch, roots)
    other.files = sound | {"timestamp.json": sound["1.snapshot.json"]}
    with pytest.raises(Untrusted):
        read_published(other.fetch, roots)


def test_there_is_no_other_role(channel: MemoryChannel) -> None:
    with pytest.raises(InvalidInput, match="'mirrors'"):
        rotate_key(channel.keys, "mirrors", no_passphrase, NOW)
