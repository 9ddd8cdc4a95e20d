"""Publishing as a GitHub release: what clients see after every request, whichever is lost."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.fakes.fake_github import API, TOKEN, FakeGithub
from tests.unit.factory.releases import TufClient, check_whole, make_image
from tests.unit.signing.channels import no_passphrase
from tinyagentos.factory.candidate import read_candidate
from tinyagentos.factory.github import GithubShelf, Place, parse_place
from tinyagentos.factory.publish import Publication, publish
from tinyagentos.model.errors import InvalidInput, NotFound, Unauthorized, Unavailable
from tinyagentos.model.release import Index, WrongContent
from tinyagentos.signing.channel import Channel
from tinyagentos.signing.keys import init_keys, rotate_key

NOW = datetime.now(UTC).replace(microsecond=0)
PLACE = Place("me/taos", "rolling-images")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_keys(tmp_path / "keys", no_passphrase, NOW)
    return tmp_path


def send(github: FakeGithub, home: Path, *files: Path, keep: int = 1) -> Publication:
    return publish(
        files, GithubShelf(github.client(), PLACE), home / "keys",
        ask=no_passphrase, now=NOW, keep=keep,
    )  # fmt: skip


def look(github: FakeGithub, home: Path, name: str) -> Index:
    """What our client reads; python-tuf's own downloads all of it, given the same stand-in."""

    def fetch(wanted: str) -> Iterator[bytes]:
        is_gap = wanted == "timestamp.json" and wanted not in github.names()
        yield from github.fetch("previous.timestamp.json" if is_gap else wanted)

    root = (home / "keys" / "1.root.json").read_bytes()
    index = check_whole(fetch, root, home / "clients" / name)
    assert Channel(root, home / "clients" / name / "ours", github.fetch).refresh() == index
    return index


def fingerprints(index: Index) -> set[str]:
    return {one.fingerprint for one in index.images}


def test_the_release_is_made_and_clients_get_its_images(home: Path) -> None:
    github = FakeGithub()
    image = make_image(home / "build")
    published = send(github, home, image)
    assert github.tag == "rolling-images"
    assert look(github, home, "new") == published.index
    (offered,) = published.index.images
    root = (home / "keys" / "1.root.json").read_bytes()
    got = TufClient(github.fetch, root, home / "theirs").download_all([offered.name])
    assert got == {offered.name: image.read_bytes()}
    uploads = [one.name for one in sorted(github.assets, key=lambda one: one.number)]
    assert uploads[-1] == "timestamp.json"
    assert uploads[-3:-1] == ["1.targets.json", "1.snapshot.json"]


def test_a_second_release_uploads_only_what_is_new(home: Path) -> None:
    github = FakeGithub()
    image = make_image(home / "build")
    send(github, home, image)
    github.requests.clear()
    send(github, home, image)
    assert sum(one.startswith("POST") for one in github.requests) == 3
    assert {"timestamp.json", "previous.timestamp.json"} < github.names()
    send(github, home, image)
    assert not [name for name in github.names() if name.startswith("1.t")]
    look(github, home, "in the end")


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("rotated", ["", "timestamp"])
def test_whichever_request_is_lost_clients_have_the_old_release_or_the_new(
    home: Path, rotated: str, is_done_first: bool
) -> None:
    images = [make_image(home / str(number), documents=False) for number in range(4)]
    before = FakeGithub()
    for image in images[:3]:
        send(before, home, image)
    if rotated:
        rotate_key(home / "keys", rotated, no_passphrase, NOW)
    old, new = (read_candidate(image, NOW).image.fingerprint for image in images[2:])
    seen: list[set[str]] = []
    gaps = 0
    for number in range(200):
        github = copy.deepcopy(before)
        github.requests, github.lose = [], (number, is_done_first)
        try:
            send(github, home, images[3])
        except Unavailable:
            pass
        else:
            break
        gaps += "timestamp.json" not in github.names()
        seen.append(fingerprints(look(github, home, f"{number}")))
        github.lose = None
        assert fingerprints(send(github, home, images[3]).index) == {new}
        assert fingerprints(look(github, home, f"{number} again")) == {new}
        assert {one.state for one in github.assets} == {"uploaded"}
        assert "next.timestamp.json" not in github.names()
    assert len(seen) >= 15
    assert gaps == 1  # after the one rename, before the other
    turn = seen.index({new})
    assert all(one == {old} for one in seen[:turn])
    assert all(one == {new} for one in seen[turn:])


def test_many_assets_are_all_seen(home: Path) -> None:
    github = FakeGithub()
    send(github, home, make_image(home / "build"))
    for number in range(230):
        github._add(f"logo-{number}.svg", b"mine", "uploaded")
    send(github, home)
    assert len([name for name in github.names() if name.startswith("logo")]) == 230
    assert github.names() > {"2.targets.json", "timestamp.json"}


def test_an_upload_that_broke_off_is_done_again(home: Path) -> None:
    github = FakeGithub(tag=PLACE.tag)
    image = make_image(home / "build", documents=False)
    target = read_candidate(image, NOW).image
    send(github, home)
    github._add(target.file_name, b"half", "starter")
    send(github, home, image)
    assert {one.state for one in github.assets} == {"uploaded"}
    assert fingerprints(look(github, home, "new")) == {target.fingerprint}


def test_what_github_spoils_is_not_released(home: Path) -> None:
    github = FakeGithub()
    send(github, home)
    before = look(github, home, "before")
    github.spoil_uploads = True
    with pytest.raises(WrongContent, match="otherwise than it was sent"):
        send(github, home, make_image(home / "build"))
    assert look(github, home, "after") == before


def test_nothing_is_made_when_publishing_is_refused(home: Path) -> None:
    github = FakeGithub()
    (home / "bad.tar.zst").write_bytes(b"nonsense")
    with pytest.raises(InvalidInput):
        send(github, home, home / "bad.tar.zst")
    assert not github.requests
    (home / "keys" / "targets.pem").unlink()
    with pytest.raises(Exception, match="targets key"):
        send(github, home, make_image(home / "build"))
    assert all(one.startswith("GET") for one in github.requests)
    assert not github.release


def test_what_github_refuses_is_said_with_its_words(home: Path) -> None:
    with pytest.raises(Unauthorized, match="needs a token"):
        GithubShelf.connect(PLACE, api=API, token="")
    with pytest.raises(NotFound, match="me/other"):
        publish(
            [make_image(home / "build")],
            GithubShelf(FakeGithub().client(), Place("me/other", "x")),
            home / "keys", ask=no_passphrase, now=NOW,
        )  # fmt: skip
    stranger = FakeGithub().client()
    stranger.headers["Authorization"] = "Bearer wrong"
    with (
        pytest.raises(Unauthorized, match=r"Bad credentials") as caught,
        GithubShelf(stranger, PLACE).hold(),
    ):
        pass
    assert TOKEN not in str(caught.value)

    def down(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, text="down")

    broken = httpx.Client(base_url=API, transport=httpx.MockTransport(down))
    with pytest.raises(Unavailable, match="503"), GithubShelf(broken, PLACE).hold():
        pass


@pytest.mark.parametrize(
    "to", ["github:me", "github:me/taos", "github:me/taos@", "github:a/b/c@d", "github:a/b@../x"]
)
def test_a_place_is_a_repository_and_a_tag(to: str) -> None:
    with pytest.raises(InvalidInput, match="names no release"):
        parse_place(to)
    assert parse_place("github:me/taos@rolling-images") == PLACE
