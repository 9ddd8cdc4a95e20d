"""What is looked for inside an image, and how a check's end is said."""

from __future__ import annotations

import base64
from pathlib import Path
from random import Random

import pytest

from tests.unit.factory.images import Member, write_image
from tinyagentos.factory import smoke
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.factory.smoke import Checks, Look
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import BuildFailed, SmokeFailed
from tinyagentos.model.recipe import SmokeCommand, SmokeLoad, SmokePart
from tinyagentos.model.smoke import Check, CheckState, raise_failed

ALLOWED = ("/usr/bin/su",)


def pem(kind: str, seed: int) -> bytes:
    body = base64.encodebytes(Random(seed).randbytes(300)).decode()
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n".encode()


DEBIAN_CA, HOST_CA = pem("CERTIFICATE", 1), pem("CERTIFICATE", 2)
KEY = pem("PRIVATE KEY", 3)
SOUND = (
    Member("/etc/machine-id"),
    Member("/etc/shadow", b"root:*:1::\nagent:!*:1::\n"),
    Member("/etc/ssl/certs/ca-certificates.crt", DEBIAN_CA),
    Member("/opt/x/node_modules/tls/test/key.pem", KEY),
    Member("/usr/bin/su", b"", 0o4755),
    Member("/usr/share/ca-certificates/mozilla/A.crt", DEBIAN_CA),
    Member("/usr/share/doc/x", b"put -----BEGIN PRIVATE KEY----- here"),
    Member(
        "/var/lib/dpkg/info/ca-certificates.list", b"/usr/share/ca-certificates/mozilla/A.crt\n"
    ),
)
HOST = frozenset(one.digest for one in smoke.find_pems("", HOST_CA))


def look(tmp_path: Path, *more: Member) -> Look:
    """What is seen in a sound image with these files added or in place of its own."""
    members = {one.path: one for one in (*SOUND, *more)}
    return smoke.look_inside(write_image(tmp_path / "i.tar.zst", members.values()))


def check_all(seen: Look) -> None:
    smoke.check_identity(seen)
    smoke.check_secrets(seen, HOST)
    smoke.check_passwords(seen)
    smoke.check_privileged(seen, ALLOWED)


def test_a_sound_image_passes(tmp_path: Path) -> None:
    check_all(look(tmp_path))


WRONG = {
    "a machine-id": (Member("/etc/machine-id", b"0123abc\n"), "/etc/machine-id is '0123abc'"),
    "an ssh host key": (Member("/etc/ssh/ssh_host_rsa_key"), "has /etc/ssh/ssh_host_rsa_key"),
    "a random seed": (Member("/var/lib/systemd/random-seed"), "/var/lib/systemd/random-seed"),
    "the host's CA in the bundle": (
        Member("/etc/ssl/certs/ca-certificates.crt", DEBIAN_CA + HOST_CA),
        "no package brought is in /etc/ssl/certs/ca-certificates.crt",
    ),
    "the host's CA in a package's file": (
        Member("/opt/x/node_modules/tls/ca.pem", HOST_CA),
        "/opt/x/node_modules/tls/ca.pem",
    ),
    "an unknown CA": (Member("/etc/ca.pem", pem("CERTIFICATE", 9)), "is in /etc/ca.pem"),
    "a CA of the host, as Debian adds them": (
        Member("/usr/local/share/ca-certificates/proxy.crt", b"in another form"),
        "is in /usr/local/share/ca-certificates/proxy.crt",
    ),
    "a private key": (
        Member("/root/.ssh/id_rsa", pem("OPENSSH PRIVATE KEY", 5)),
        "is in /root/.ssh/id_rsa",
    ),
    "a password": (Member("/etc/shadow", b"root:$y$j9T:1::\n"), "root can be logged into"),
    "no password asked": (Member("/etc/shadow", b"agent::1::\n"), "agent can be logged into"),
    "a setuid program": (Member("/usr/bin/x", b"", 0o4755), "privileged: /usr/bin/x"),
    "a setgid program": (Member("/usr/bin/x", b"", 0o2755), "privileged: /usr/bin/x"),
    "a program with capabilities": (
        Member("/usr/bin/x", b"", 0o755, {"SCHILY.xattr.security.capability": "\1"}),
        "privileged: /usr/bin/x",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG.keys())
def test_an_image_fails_for(wrong: Member, said: str, tmp_path: Path) -> None:
    with pytest.raises(SmokeFailed) as failed:
        check_all(look(tmp_path, wrong))
    assert said in failed.value.message


def test_an_uninitialized_machine_id_is_nobodys(tmp_path: Path) -> None:
    check_all(look(tmp_path, Member("/etc/machine-id", b"uninitialized\n")))


def test_the_hosts_own_certificates_are_those_its_distribution_did_not_bring(
    tmp_path: Path,
) -> None:
    bundle, packaged = tmp_path / "bundle.crt", tmp_path / "packaged"
    (packaged / "mozilla").mkdir(parents=True)
    (packaged / "mozilla" / "A.crt").write_bytes(DEBIAN_CA)
    bundle.write_bytes(DEBIAN_CA + HOST_CA)
    assert smoke.host_certificates(bundle, packaged) == HOST
    assert smoke.host_certificates(bundle, tmp_path / "none") == frozenset()


LOAD = SmokeLoad("native", ("/opt/a/**/*.node", "/opt/**/*.node"), ("node",))


def test_every_file_that_a_pattern_matches_is_loaded_once() -> None:
    files = ("/opt/z.node", "/opt/a/b/x.node", "/opt/a/y.node", "/usr/q.node")
    assert smoke.plan_loads(LOAD, files) == ("/opt/a/b/x.node", "/opt/a/y.node", "/opt/z.node")


def test_a_module_that_went_missing_is_named() -> None:
    with pytest.raises(SmokeFailed, match=r"No file in the image is /opt/a/\*\*/\*\.node"):
        smoke.plan_loads(LOAD, ("/opt/z.node",))


async def test_each_program_is_a_check_and_failures_are_named() -> None:
    checks = Checks(lambda _: None)
    part = SmokePart((), (SmokeCommand("git", ("git",)), SmokeCommand("pip", ("pip",))), (LOAD,))

    async def run(argv: tuple[str, ...]) -> str:
        if argv[-1] in ("pip", "/opt/z.node"):
            raise BuildFailed("it broke")
        return "git version 2\nmore"

    await smoke.check_programs(part, ("/opt/z.node", "/opt/a/y.node"), run, checks)
    ended = {one.name: (one.state, one.detail) for one in checks.done}
    assert ended == {
        "native": (CheckState.failed, "1 of 2 do not load: /opt/z.node (it broke)."),
        "git": (CheckState.passed, "git version 2"),
        "pip": (CheckState.failed, "it broke"),
    }
    assert smoke.program_checks(part) == tuple(ended)


async def test_the_first_failure_is_the_sentence_and_a_bug_is_no_check() -> None:
    told: list[Check] = []
    checks = Checks(told.append)

    async def fine() -> str:
        return "good"

    async def refused() -> str:
        raise IncusError("no such thing")

    async def bug() -> str:
        raise KeyError("x")

    assert await checks.run("one", fine)
    checks.skip(("two",), "no emulator")
    raise_failed(checks.done, "i")
    assert not await checks.run("three", refused)
    with pytest.raises(
        SmokeFailed, match=r"^i failed the check 'three': Incus says: no such thing\.$"
    ):
        raise_failed(checks.done, "i")
    await checks.run("four", refused)
    with pytest.raises(SmokeFailed, match=r"no such thing\. 1 more failed\.$"):
        raise_failed(checks.done, "i")
    assert [str(one.state) for one in told] == ["ok", "not run", "failed", "failed"]
    with pytest.raises(KeyError):
        await checks.run("five", bug)


@pytest.mark.parametrize(
    ("registered", "why"),
    [
        (None, "qemu-aarch64 is not registered"),
        ("disabled\nflags: F\n", "is not registered"),
        ("enabled\nflags: PO\n", "without the flag F"),
        ("enabled\ninterpreter /x\nflags: POCF\n", ""),
    ],
)
def test_what_emulation_allows(registered: str | None, why: str, tmp_path: Path) -> None:
    if registered:
        (tmp_path / "qemu-aarch64").write_text(registered)
    found = smoke.why_not_runnable("arm64", "x64", tmp_path)
    assert why in found
    assert bool(found) == bool(why)
    assert smoke.why_not_runnable("x64", "x64", tmp_path) == ""


def test_the_recipes_say_what_their_images_are_asked() -> None:
    part = smoke.join_parts(load_recipe("debian-13").smoke, load_recipe("openclaw").smoke)
    names = {one.name for one in part.commands}
    assert {"git", "curl", "python3", "pip", "venv", "node", "openclaw"} <= names
    chat = load_recipe("openclaw").agent.chat
    assert chat
    assert chat.path == "/v1/chat/completions"
    assert "/usr/bin/su" in part.privileged
    assert [one.name for one in part.loads] == ["native modules"]
