"""Publishing to a folder: what clients see at every moment, what stays, what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.factory.releases import (
    Cut,
    CutShelf,
    TufClient,
    check_whole,
    make_image,
    make_large_image,
)
from tests.unit.signing.channels import no_passphrase
from tinyagentos.factory.candidate import read_candidate
from tinyagentos.factory.publish import OURS, Publication, publish
from tinyagentos.factory.shelf import DirectoryShelf
from tinyagentos.model.errors import Conflict, HostNotReady, InvalidInput, TaosError, Unavailable
from tinyagentos.model.release import Expired, Index, WrongContent, WrongKeys
from tinyagentos.signing.channel import Channel, directory
from tinyagentos.signing.keys import LIFETIME, init_keys, key_path, load_roots, rotate_key

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclasses.dataclass
class Publisher:
    """Somebody with keys, a channel's folder and a clock."""

    home: Path
    now: datetime = NOW
    keep: int = 3

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def channel(self) -> Path:
        return self.home / "channel"

    @property
    def root(self) -> bytes:
        return (self.keys / "1.root.json").read_bytes()

    def image(self, **more: object) -> Path:
        return make_image(self.home / f"build-{len(list(self.home.iterdir()))}", **more)  # type: ignore[arg-type]

    def publish(self, *files: Path, shelf: object = None) -> Publication:
        return publish(
            files, shelf or DirectoryShelf(self.channel), self.keys,  # type: ignore[arg-type]
            ask=no_passphrase, now=self.now, keep=self.keep,
        )  # fmt: skip

    def check(self, name: str) -> Index:
        """What a new client reads; every file of it downloads with python-tuf's own client."""
        return check_whole(directory(self.channel), self.root, self.home / "clients" / name)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    init_keys(tmp_path / "keys", no_passphrase, NOW)
    return Publisher(tmp_path)


def fingerprints(index: Index) -> set[str]:
    return {one.fingerprint for one in index.images}


def fingerprint(path: Path) -> str:
    return read_candidate(path, NOW).image.fingerprint


def test_python_tufs_own_client_gets_what_was_built(publisher: Publisher) -> None:
    x64 = make_large_image(publisher.home / "build")
    arm64 = make_image(publisher.home / "build", arch="arm64", documents=False)
    published = publisher.publish(x64, arm64)
    assert publisher.check("new") == published.index
    image = published.index.newest("openclaw", "x64")
    other = published.index.newest("openclaw", "arm64")
    assert image
    assert other
    assert (image.version, image.recipe, image.released) == ("1.0", "d" * 64, NOW)
    assert (len(image.chunks), image.unpacked_bytes) == (3, 2 * (4 << 20) + 5)
    assert (other.lock, other.sbom) == ("", "")
    assert image.sequence == other.sequence == int(NOW.timestamp())
    client = TufClient(directory(publisher.channel), publisher.root, publisher.home / "theirs")
    got = client.download_all([image.name, image.lock, image.sbom, other.name])
    build = publisher.home / "build"
    assert got == {
        image.name: x64.read_bytes(),
        image.lock: (build / "openclaw-1.0-x64.lock.json").read_bytes(),
        image.sbom: (build / "openclaw-1.0-x64.cdx.json").read_bytes(),
        other.name: arm64.read_bytes(),
    }


def test_the_channel_is_one_flat_folder_of_plain_names(publisher: Publisher) -> None:
    publisher.publish(publisher.image())
    names = {path.name for path in publisher.channel.iterdir()}
    assert {"1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json"} < names
    assert len(names) == 7
    assert all(path.is_file() for path in publisher.channel.iterdir())
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
               for name in names)  # fmt: skip


def run_cut(publisher: Publisher, files: list[Path], number: int) -> bool:
    """Publish and be cut off after so many changes and one; False when there are not so many."""
    shelf = CutShelf(DirectoryShelf(publisher.channel), number, is_done_first=True)
    try:
        publisher.publish(*files, shelf=shelf)
    except Cut:
        return True
    return False


@pytest.mark.parametrize("rotated", ["", "root", "timestamp"])
def test_cut_off_at_any_file_clients_have_the_old_release_or_the_new(
    publisher: Publisher, rotated: str
) -> None:
    publisher.keep = 1
    gone, old, new = publisher.image(), publisher.image(), publisher.image()
    publisher.publish(gone)
    publisher.publish(old)
    if rotated:
        rotate_key(publisher.keys, rotated, no_passphrase, NOW)
    before, number, seen = publisher.home / "before", 0, []
    shutil.copytree(publisher.channel, before)
    follower = publisher.home / "follower"
    Channel(publisher.root, follower, directory(publisher.channel)).refresh()
    while run_cut(publisher, [new], number):
        at = f"{number}"
        index = publisher.check(at)
        seen.append(fingerprints(index))
        shutil.copytree(follower, publisher.home / "clients" / at / "follower", symlinks=True)
        state = publisher.home / "clients" / at / "follower"
        follows = Channel(publisher.root, state, directory(publisher.channel)).refresh()
        assert follows == index
        # Publishing again finishes it: nothing half-made stays, and nothing was written over.
        after = publisher.publish(new)
        assert fingerprints(after.index) == fingerprints(publisher.check(f"{at} again"))
        assert fingerprints(after.index) == {fingerprint(new)}
        assert not [one for one in publisher.channel.iterdir() if one.name.endswith(".part")]
        shutil.rmtree(publisher.channel)
        shutil.copytree(before, publisher.channel)
        number += 1
    assert number >= 7
    turn = seen.index({fingerprint(new)})
    assert all(one == {fingerprint(old)} for one in seen[:turn])
    assert all(one == {fingerprint(new)} for one in seen[turn:])


def test_cut_off_in_the_first_release_there_is_none_and_then_there_is(
    publisher: Publisher,
) -> None:
    image, number = publisher.image(), 0
    while run_cut(publisher, [image], number):
        if (publisher.channel / "timestamp.json").exists():
            publisher.check(str(number))
        else:
            with pytest.raises(Unavailable):
                publisher.check(str(number))
        publisher.publish(image)
        publisher.check(f"{number} again")
        shutil.rmtree(publisher.channel)
        number += 1
    assert number == 7


def test_a_name_that_stands_is_never_written_over(publisher: Publisher) -> None:
    shelf = CutShelf(DirectoryShelf(publisher.channel), 6)  # cut off before the timestamp
    with pytest.raises(Cut):
        publisher.publish(publisher.image(), shelf=shelf)
    left = (publisher.channel / "1.targets.json").read_bytes()
    again = CutShelf(DirectoryShelf(publisher.channel))
    publisher.publish(publisher.image(), shelf=again)
    assert "1.targets.json" not in again.changes
    assert "2.targets.json" in again.changes
    assert "-1.targets.json" in again.changes
    assert left


def test_the_newest_releases_stay_and_the_files_of_the_version_before(publisher: Publisher) -> None:
    publisher.keep = 2
    images = [publisher.image(documents=False) for _ in range(4)]
    other = publisher.image(arch="arm64", documents=False)
    publisher.publish(other)
    for image in images:
        publisher.now += timedelta(seconds=1)
        published = publisher.publish(image)
    kept = [one.fingerprint for one in published.index.history("openclaw", "x64")]
    assert kept == [fingerprint(images[3]), fingerprint(images[2])]
    assert published.index.newest("openclaw", "arm64")
    there = {name.name[:64] for name in publisher.channel.glob("*.tar.zst")}
    assert there == {fingerprint(one) for one in (*images[1:], other)}
    publisher.publish()
    assert fingerprint(images[1]) not in {one.name[:64] for one in publisher.channel.iterdir()}
    publisher.check("in the end")


def test_no_file_renews_the_signatures_also_of_a_channel_that_has_expired(
    publisher: Publisher,
) -> None:
    publisher.now = NOW - LIFETIME["targets"] - timedelta(days=1)
    image = publisher.image()
    with pytest.raises(Expired):  # nobody could use it, so it is not published
        publisher.publish(image)
    assert not list(publisher.channel.iterdir())
    publisher.now = NOW - timedelta(days=10)
    publisher.publish(image)
    publisher.now = NOW
    published = publisher.publish()
    assert fingerprints(published.index) == {fingerprint(image)}
    assert published.index.expires == NOW + LIFETIME["timestamp"]
    assert published.index.version == 2


def test_publishing_the_newest_once_more_does_not_make_it_newer(publisher: Publisher) -> None:
    image = publisher.image()
    first = publisher.publish(image).index
    publisher.now += timedelta(hours=1)
    again = publisher.publish(image)
    assert again.index.images == first.images
    assert all(name.endswith((".targets.json", ".snapshot.json")) for name in again.uploaded)


def test_an_older_image_that_is_published_again_is_the_newest(publisher: Publisher) -> None:
    good, broken = publisher.image(version="1.0"), publisher.image(version="2.0")
    publisher.publish(good)
    publisher.now -= timedelta(days=3)  # a clock that was set back
    publisher.publish(broken)
    index = publisher.publish(good).index
    newest = index.newest("openclaw", "x64")
    assert newest
    assert newest.version == "1.0"
    assert len(index.images) == 2


def test_other_peoples_files_are_left_alone(publisher: Publisher) -> None:
    publisher.publish(publisher.image())
    for name in ("README.md", "logo.svg", "root.json"):
        (publisher.channel / name).write_text("mine")
    publisher.publish(publisher.image())
    assert (publisher.channel / "README.md").read_text() == "mine"
    assert not any(OURS.fullmatch(name) for name in ("README.md", "root.json", "1.root.json"))


def test_a_release_whose_file_was_taken_away_is_no_longer_offered(publisher: Publisher) -> None:
    lost, other = publisher.image(), publisher.image(arch="arm64")
    publisher.publish(lost, other)
    next(publisher.channel.glob(f"{fingerprint(lost)}.*")).unlink()
    next(publisher.channel.glob("*arm64*.lock.json")).unlink()
    index = publisher.publish().index
    assert fingerprints(index) == {fingerprint(other)}
    assert [one.lock for one in index.images] == [""]
    publisher.check("after")


def everything(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()} if folder.exists() else {}


def spoil_nothing(_: Publisher) -> None:
    """The file alone is wrong."""


def lose_key(publisher: Publisher) -> None:
    key_path(publisher.keys, "snapshot").unlink()


def swap_keys(publisher: Publisher) -> None:
    targets = key_path(publisher.keys, "targets")
    targets.write_bytes(key_path(publisher.keys, "timestamp").read_bytes())


def take_other_keys(publisher: Publisher) -> None:
    shutil.rmtree(publisher.keys)
    init_keys(publisher.keys, no_passphrase, NOW)


def let_time_pass(publisher: Publisher) -> None:
    publisher.now = NOW + timedelta(days=366)


def spoil_channel(publisher: Publisher) -> None:
    (publisher.channel / "1.snapshot.json").write_bytes(b"{}")


def lose_roots(publisher: Publisher) -> None:
    (publisher.keys / "1.root.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lose_key, HostNotReady, r"snapshot key .* cannot be read"),
        (swap_keys, WrongKeys, "is not the targets key that 1.root.json names"),
        (take_other_keys, WrongKeys, "another 1.root.json"),
        (let_time_pass, Expired, "The keys have expired"),
        (spoil_channel, WrongContent, "not the signed ones"),
        (lose_roots, HostNotReady, "no root.json"),
    ],
)
def test_what_cannot_be_signed_is_refused_and_nothing_is_written(
    publisher: Publisher, spoil: object, error: type[TaosError], words: str
) -> None:
    publisher.publish(publisher.image())
    spoil(publisher)  # type: ignore[operator]
    before = everything(publisher.channel)
    with pytest.raises(error, match=words) as caught:
        publisher.publish(publisher.image())
    assert caught.value.hint
    assert everything(publisher.channel) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense", "is not a whole image file"),
        (None, "There is no file"),
        ("version", "is not an image of taOS"),
        ("arch", "is not an image of taOS"),
        ("cut", "is not a whole image file"),
    ],
)
def test_what_is_no_image_is_refused_and_nothing_is_written(
    publisher: Publisher, content: bytes | str | None, words: str
) -> None:
    publisher.publish(publisher.image())
    before = everything(publisher.channel)
    good, bad = publisher.image(arch="arm64"), publisher.home / "bad.tar.zst"
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif content == "version":
        make_image(publisher.home, version="1.0 beta").rename(bad)
    elif content == "arch":
        path = publisher.image()
        bad.write_bytes(_without_metadata(path, publisher.home))
    elif content == "cut":
        bad.write_bytes(good.read_bytes()[:-200])
    with pytest.raises(InvalidInput, match=words):
        publisher.publish(good, bad)
    assert everything(publisher.channel) == before


def _without_metadata(_: Path, home: Path) -> bytes:
    from tests.unit.factory.images import Member, write_image

    return write_image(home / "foreign.tar.zst", [Member("/x", b"x")], "architecture: mips\n"
                       ).read_bytes()  # fmt: skip


def test_two_images_for_one_place_are_refused(publisher: Publisher) -> None:
    with pytest.raises(InvalidInput, match="two images of openclaw for x64"):
        publisher.publish(publisher.image(), publisher.image())


def test_a_file_that_changes_meanwhile_is_not_released(publisher: Publisher) -> None:
    image = publisher.image()

    class Slow(CutShelf):
        def add(self, upload: object) -> None:
            image.write_bytes(b"x" * image.stat().st_size)
            super().add(upload)  # type: ignore[arg-type]

    with pytest.raises(WrongContent, match="has changed since it was measured"):
        publisher.publish(image, shelf=Slow(DirectoryShelf(publisher.channel)))
    assert not list(publisher.channel.glob("*.tar.zst"))
    assert not (publisher.channel / "timestamp.json").exists()


def test_only_one_publishes_at_a_time(publisher: Publisher) -> None:
    shelf = DirectoryShelf(publisher.channel)
    with shelf.hold(), pytest.raises(Conflict, match="Somebody else"):
        publisher.publish(publisher.image())
    publisher.publish(publisher.image())


def test_a_folder_that_cannot_be_is_said(publisher: Publisher) -> None:
    publisher.channel.write_text("in the way")
    with pytest.raises(HostNotReady, match="cannot be used"):
        publisher.publish(publisher.image())


def test_the_root_that_is_shipped_may_be_any_of_the_channel(publisher: Publisher) -> None:
    image = publisher.image()
    publisher.publish(image)
    rotate_key(publisher.keys, "targets", no_passphrase, NOW)
    publisher.publish()
    for root in load_roots(publisher.keys):
        state = publisher.home / f"state-{root.version}"
        index = Channel(root.content, state, directory(publisher.channel)).refresh()
        assert fingerprints(index) == {fingerprint(image)}
