"""Plans of a build, what is passed into it, trimming, packing."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos import proc
from tinyagentos.factory.build import carry_out, make_archive, plan_build
from tinyagentos.factory.inputs import _repack, build_environment, fetch_python, host_ca_bundle
from tinyagentos.factory.pack import pack
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.factory.rootfs import plan_command, plan_sources
from tinyagentos.factory.trim import Removal, apply_trim, list_files, plan_trim
from tinyagentos.model.errors import BuildFailed, Unavailable, Untrusted
from tinyagentos.model.recipe import DebianPart, PypiPart, RecipeFile, TrimRule, Wheel

MAPS = TrimRule("maps", ("/opt/**/*.map",), "nobody reads them")
DOCS = TrimRule("docs", ("/usr/share/doc/*",), "not at run time", keep=("/usr/share/doc/keep",))


def test_the_plan_joins_recipe_and_base() -> None:
    recipe, base = load_recipe("openclaw"), load_recipe("debian-13")
    plan = plan_build(recipe, base)
    assert {"git", "python3-venv", "systemd"} <= set(plan.packages)
    assert plan.units[-1] == "agent.service"
    assert plan.npm == recipe.npm
    assert "/usr/lib/taos/prepare" in {file.path for file in plan.files}


class RecordingTarget:
    """Carries nothing out: it keeps what it was asked. A command named in `failing` fails."""

    def __init__(self, *failing: str) -> None:
        self.commands: list[str] = []
        self.failing = failing

    async def run(self, *argv: str, env: Mapping[str, str], within: float, cwd: str = "/") -> str:
        self.commands.append(" ".join(argv))
        if argv[0] in self.failing:
            raise BuildFailed(f"{argv[0]} failed")
        return ""

    async def unpack(self, archive: Path) -> None:
        self.commands.append(f"unpack {archive.name}")

    def find(self, words: str) -> list[int]:
        return [at for at, command in enumerate(self.commands) if words in command]


async def test_packages_are_installed_by_the_lock_and_only_named_scripts_run() -> None:
    target = RecordingTarget()
    plan = plan_build(load_recipe("openclaw"), load_recipe("debian-13"))
    await carry_out(plan, target, [Path("node.tar"), Path("bun.tar")], lambda said: None)
    [install] = target.find("bun install")
    assert "--frozen-lockfile" in target.commands[install]
    assert "--ignore-scripts" in target.commands[install]
    [scripts] = target.find("npm rebuild")
    assert target.commands[scripts].endswith(" openclaw koffi protobufjs")
    assert max(target.find("unpack")) < install < scripts
    assert target.find("npm ci") == []


async def test_npm_installs_where_bun_does_not_run() -> None:
    target = RecordingTarget("/opt/taos-build/bun")
    plan = plan_build(load_recipe("openclaw"), load_recipe("debian-13"))
    await carry_out(plan, target, [Path("node.tar")], lambda said: None)
    [install] = target.find("npm ci")
    assert "--ignore-scripts" in target.commands[install]
    assert target.find("bun install") == []


async def test_certificates_and_tools_are_removed_from_what_was_built() -> None:
    target = RecordingTarget()
    plan = plan_build(load_recipe("openclaw"), load_recipe("debian-13"))
    await carry_out(plan, target, [Path("node.tar")], lambda said: None)
    removed = " ".join(target.commands[at] for at in target.find("rm -rf"))
    assert "/run/taos-build" in removed
    assert "/opt/taos-build" in removed


@pytest.mark.parametrize("failing", ["/opt/node/bin/npm", "apt-get"])
async def test_a_failed_build_is_raised_at_once(failing: str) -> None:
    # Its target is thrown away as a whole: cleaning it would only hold the user up.
    target = RecordingTarget(failing)
    plan = plan_build(load_recipe("openclaw"), load_recipe("debian-13"))
    with pytest.raises(BuildFailed):
        await carry_out(plan, target, [Path("node.tar")], lambda said: None)
    assert not any("/run/taos-build" in target.commands[at] for at in target.find("rm -rf"))


def test_sources_come_from_where_the_host_gets_its_own() -> None:
    targets = "http://m.test/debian/|bookworm\nhttp://m.test/sec/|bookworm-security\nhttp://m.test/debian/|bookworm-backports"
    assert plan_sources(targets, "bookworm", "trixie") == (
        "deb http://m.test/debian/ trixie main",
        "deb http://m.test/sec/ trixie-security main",
    )
    assert plan_sources(targets, "noble", "trixie") == ()


def test_mmdebstrap_is_told_what_never_to_unpack() -> None:
    part = DebianPart(
        "trixie", ("git", "udev"), ("/usr/share/doc/*", "!/usr/share/doc/*/copyright")
    )
    argv = plan_command(part, "arm64", Path("/r"), ("deb http://m.test trixie main",))
    assert argv[-3:] == ("trixie", "/r", "deb http://m.test trixie main")
    assert "--architectures=arm64" in argv
    assert "--include=git,udev" in argv
    assert argv.index("--dpkgopt=path-exclude=/usr/share/doc/*") < argv.index(
        "--dpkgopt=path-include=/usr/share/doc/*/copyright"
    )


def test_the_build_gets_the_hosts_proxy_and_nothing_else() -> None:
    passed = build_environment({"https_proxy": "http://p.test", "SECRET": "x", "no_proxy": ""})
    assert passed["https_proxy"] == "http://p.test"
    assert "SECRET" not in passed
    assert "no_proxy" not in passed


def test_the_hosts_own_certificates_come_first(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text("x")
    assert host_ca_bundle({"SSL_CERT_FILE": str(bundle)}) == bundle


def test_a_wheel_becomes_an_archive_of_what_is_kept(tmp_path: Path) -> None:
    wheel = Wheel(
        "node", "p", "1", "/opt/node", "pkg", ("bin/node", "lib/npm/"), ("bin/node",), {},
        {"bin/npm": "../lib/npm/cli.js"},
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as file:
        for name in ("pkg/bin/node", "pkg/lib/npm/cli.js", "pkg/include/v8.h", "other/x"):
            file.writestr(name, name)
    for out in ("a.tar", "b.tar"):
        _repack(tmp_path / "w.whl", wheel, tmp_path / out)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [(m.name, m.mode, m.linkname) for m in tar] == [
            ("opt/node/bin/node", 0o755, ""),
            ("opt/node/lib/npm/cli.js", 0o644, ""),
            ("opt/node/bin/npm", 0o644, "../lib/npm/cli.js"),
        ]


def make_wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    """A wheel in the folder; its SHA-256."""
    info = f"{name}-1.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
        f"{info}/RECORD": "",
    }
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for at, text in content.items():
            file.writestr(at, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_python_packages_become_an_environment_of_the_images_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = make_wheel(tmp_path, "parrot", {"parrot/__init__.py": "", "parrot/say.py": "word"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    part = PypiPart("/opt/p", "3.13", f"parrot==1 --hash=sha256:{pinned}\n".encode())
    for cache in ("a", "b"):
        archive = await fetch_python(part, "arm64", tmp_path / cache)
    assert [one.name for one in (tmp_path / "b").iterdir()] == [archive.name]
    assert archive.read_bytes() == (tmp_path / "a" / archive.name).read_bytes()
    with tarfile.open(archive) as tar:
        found = {one.name: one.linkname for one in tar}
    packages = "opt/p/lib/python3.13/site-packages"
    assert found["opt/p/bin/python3"] == "/usr/bin/python3"
    assert {"opt/p/pyvenv.cfg", f"{packages}/parrot/say.py"} <= set(found)
    assert f"{packages}/parrot-1.dist-info/METADATA" in found
    # No programs that name this host's Python, no record of them, no byte code.
    assert not [one for one in found if "/bin/parrot" in one or "RECORD" in one or "pyc" in one]
    assert str(tmp_path).encode() not in archive.read_bytes()
    assert sys.executable.encode() not in archive.read_bytes()


async def test_other_bytes_than_the_pinned_ones_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path, "parrot", {"parrot.py": ""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    requirements = f"parrot==1 --hash=sha256:{'0' * 64}\n".encode()
    with pytest.raises(Untrusted, match="parrot"):
        await fetch_python(PypiPart("/opt/p", "3.13", requirements), "x64", tmp_path / "cache")
    missing = f"cuckoo==1 --hash=sha256:{'0' * 64}\n".encode()
    with pytest.raises(Unavailable, match="cuckoo"):
        await fetch_python(PypiPart("/opt/p", "3.13", missing), "x64", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_same_files_give_the_same_archive() -> None:
    files = [RecipeFile("/etc/a", b"1"), RecipeFile("/usr/b", b"2", executable=True)]
    archive = make_archive(files, {"/etc/l": "/usr/b"})
    assert archive == make_archive(files, {"/etc/l": "/usr/b"})
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [(m.name, m.uid, m.mode & 0o100) for m in tar][:2] == [
            ("etc/a", 0, 0),
            ("usr/b", 0, 0o100),
        ]


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/opt/a/b/c.map", "maps"),
        ("/opt/c.map", "maps"),
        ("/opt/c.map/keep.js", None),
        ("/var/c.map", None),
        ("/usr/share/doc/git", "docs"),
        ("/usr/share/doc/git/x", None),
        ("/usr/share/doc/keep", None),
    ],
)
def test_the_rules_say_what_goes(path: str, rule: str | None) -> None:
    files = [(path, 5), ("/opt/x.map", 1), ("/usr/share/doc/x", 1)]
    planned = {removal.path: removal.rule for removal in plan_trim(files, [MAPS, DOCS])}
    assert planned.get(path) == rule


def test_a_stale_rule_fails_the_build() -> None:
    with pytest.raises(BuildFailed, match="'docs' matches nothing"):
        plan_trim([("/opt/x.map", 1)], [MAPS, DOCS])


def test_a_rule_for_another_architecture_is_left_out() -> None:
    rule = TrimRule("arm", ("/x",), "", only_arch="arm64")
    assert plan_trim([("/x", 1)], [rule], "x64") == ()
    assert plan_trim([("/x", 1)], [rule], "arm64") == (Removal("/x", "arm", 1),)


@given(st.lists(st.from_regex(r"(/[a-c.]{1,3}){1,4}(\.map)?", fullmatch=True)))
def test_no_path_outside_the_rules_is_ever_removed(paths: list[str]) -> None:
    rule = TrimRule("maps", ("/a/**/*.map",), "", optional=True)
    for removal in plan_trim([(path, 1) for path in paths], [rule]):
        assert removal.path.startswith("/a/")
        assert removal.path.endswith(".map")


def test_trimming_removes_the_planned_files_only(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    for name in ("a.map", "a.js"):
        (tmp_path / "opt" / name).write_text("12345")
    removals = plan_trim(list_files(tmp_path), [MAPS])
    apply_trim(tmp_path, removals)
    assert removals == (Removal("/opt/a.map", "maps", 5),)
    assert [path.name for path in (tmp_path / "opt").iterdir()] == ["a.js"]


async def test_the_same_root_packs_to_the_same_bytes(tmp_path: Path) -> None:
    prints = set()
    for name in ("one", "two"):
        root = tmp_path / name / "rootfs"
        root.mkdir(parents=True)
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (root / file).write_text(file)
        os.utime(root / "a", (1, 1))
        (root / "link").symlink_to("/rootfs/a")
        out = tmp_path / f"{name}.tar.zst"
        image = await pack(tmp_path / name, load_recipe("debian-13"), "x64", out, level="local")
        prints.add((image.fingerprint, image.size_bytes))
    assert len(prints) == 1
    assert not list(tmp_path.glob("*.part"))
    await proc.run("zstd", "-dq", tmp_path / "one.tar.zst", within=60)
    with tarfile.open(tmp_path / "one.tar") as tar:
        times = {member.name: member.mtime for member in tar}
    # Byte code of Python is only used while its source keeps its own time.
    assert times["rootfs/a"] == 1
    assert times["rootfs/b"] == load_recipe("debian-13").epoch
