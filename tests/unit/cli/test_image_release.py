"""taos image keys, publish and verify as commands."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Taos
from tests.unit.factory.releases import make_image
from tinyagentos.cli.errors import DONE, FAILED, USAGE


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "build")


def test_from_keys_to_a_verified_channel(taos: Taos, image: Path, tmp_path: Path) -> None:
    keys, channel = tmp_path / "image-keys", tmp_path / "channel"
    made = taos("image", "keys", "init")
    assert (made.status, made.err) == (DONE, "")
    assert str(keys / "1.root.json") in made.out
    assert f"Keep {keys / 'offline'} away" in made.out
    published = taos("image", "publish", str(image), "--to", str(channel))
    assert (published.status, published.err) == (DONE, "")
    assert "timestamp.json: version 1 is what clients see" in published.out
    root = str(keys / "1.root.json")
    verified = taos("image", "verify", str(channel), "--root", root)
    assert (verified.status, verified.err) == (DONE, "")
    assert "7 files verified" in verified.out
    one = taos("image", "verify", str(image), "--channel", str(channel), "--root", root)
    assert "is openclaw 1.0 for x64" in one.out
    rotated = taos("image", "keys", "rotate", "targets")
    assert "3.root.json" in rotated.out
    assert taos("image", "publish", "--to", str(channel)).status == DONE
    assert "11 files verified" in taos("image", "verify", str(channel), "--root", root).out


def test_everything_is_said_to_machines_too(taos: Taos, image: Path, tmp_path: Path) -> None:
    keys, channel = tmp_path / "k", str(tmp_path / "channel")
    made = json.loads(taos("image", "keys", "init", str(keys), "--json").out)
    assert made["roots"] == [str(keys / "1.root.json")]
    args = ("--to", channel, "--keys", str(keys), "--json")
    published = json.loads(taos("image", "publish", str(image), *args).out)
    assert published["version"] == 1
    assert len(published["uploaded"]) == 6
    assert published["images"][0]["framework"] == "openclaw"
    root = ("--root", str(keys / "1.root.json"), "--json")
    verified = json.loads(taos("image", "verify", channel, *root).out)
    assert len(verified["verified"]) == 7
    one = json.loads(taos("image", "verify", str(image), "--channel", channel, *root).out)
    assert one["image"] == published["images"][0]
    rotated = json.loads(taos("image", "keys", "rotate", "root", str(keys), "--json").out)
    assert rotated["roots"] == [str(keys / "2.root.json")]


def test_what_is_wrong_with_a_channel_is_one_sentence(
    taos: Taos, image: Path, tmp_path: Path
) -> None:
    taos("image", "keys", "init")
    taos("image", "publish", str(image), "--to", str(tmp_path / "channel"))
    root = str(tmp_path / "image-keys" / "1.root.json")
    file = next((tmp_path / "channel").glob("*.tar.zst"))
    file.write_bytes(file.read_bytes()[:-1])
    ended = taos("image", "verify", str(tmp_path / "channel"), "--root", root)
    assert ended.status == FAILED
    assert ended.err.startswith(f"taos: {file.name} does not have")
    assert "hint:" in ended.err
    assert not ended.out


def test_trust_begins_at_a_root_that_somebody_named(
    taos: Taos, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taos("image", "keys", "init")
    taos("image", "publish", str(image), "--to", str(tmp_path / "channel"))
    monkeypatch.setenv("TAOS_IMAGE_ROOT", str(tmp_path / "none.json"))
    ended = taos("image", "verify", str(tmp_path / "channel"))
    assert (ended.status, "none.json cannot be read" in ended.err) == (FAILED, True)
    monkeypatch.setenv("TAOS_IMAGE_ROOT", str(tmp_path / "image-keys" / "1.root.json"))
    assert taos("image", "verify", str(tmp_path / "channel")).status == DONE


def test_keys_are_encrypted_with_the_passphrase_of_the_settings(
    taos: Taos, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAOS_SIGNING_PASSPHRASE", "a secret of ours")
    assert taos("image", "keys", "init").status == DONE
    pem = tmp_path / "image-keys" / "timestamp.pem"
    assert b"ENCRYPTED" in pem.read_bytes()
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600
    publish = ("image", "publish", str(image), "--to", str(tmp_path / "channel"))
    assert taos(*publish).status == DONE
    assert taos("image", "keys", "rotate", "timestamp").status == DONE
    assert b"ENCRYPTED" in pem.read_bytes()
    monkeypatch.delenv("TAOS_SIGNING_PASSPHRASE")
    before = (tmp_path / "channel" / "timestamp.json").read_bytes()
    ended = taos(*publish)
    assert ended.status == FAILED
    assert "passphrase is missing or wrong" in ended.err
    assert (tmp_path / "channel" / "timestamp.json").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("publish", "IMAGE", "--to", "github:me/taos@tag"), FAILED, "needs a token"),
        (("publish", "IMAGE", "--to", "github:me"), USAGE, "names no release"),
        (("publish", "IMAGE", "--to", "OUT"), FAILED, "no root.json"),
        (("publish", "IMAGE"), USAGE, "--to"),
        (("publish", "IMAGE", "--to", "OUT", "--keep", "0"), USAGE, "--keep"),
        (("keys", "rotate", "targets"), FAILED, "no root.json"),
    ],
)
def test_what_cannot_be_done_is_said(
    taos: Taos, image: Path, tmp_path: Path, args: tuple[str, ...], status: int, words: str
) -> None:
    known = {"IMAGE": str(image), "OUT": str(tmp_path / "out")}
    ended = taos("image", *(known.get(arg, arg) for arg in args))
    assert (ended.status, words in ended.err) == (status, True), ended.err
    assert not (tmp_path / "out").exists()
