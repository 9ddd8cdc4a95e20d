"""What a root is made of: its Debian packages by dpkg's own list, its npm and
Python packages by their files.

Read before trimming, which may remove what tells.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from tinyagentos.model.recipe import Recipe

_PACKAGE = re.compile(r"/node_modules/(?:@[^/]+/)?[^/@][^/]*$")


@dataclass(frozen=True, order=True)
class DebianPackage:
    """An installed Debian package."""

    name: str
    version: str
    architecture: str


@dataclass(frozen=True, order=True)
class NpmPackage:
    """An installed npm package. integrity: by the lock; empty when it came inside another one."""

    name: str
    version: str
    integrity: str = ""
    license: str = ""


@dataclass(frozen=True, order=True)
class PythonPackage:
    """A Python package of the recipe's, installed beside Debian's own."""

    name: str
    version: str
    license: str = ""


@dataclass(frozen=True)
class Inventory:
    """The packages of a root, sorted."""

    debian: tuple[DebianPackage, ...] = ()
    npm: tuple[NpmPackage, ...] = ()
    python: tuple[PythonPackage, ...] = ()


def read_inventory(root: Path, recipe: Recipe) -> Inventory:
    """The packages in the folder that the recipe was carried out in."""
    status = root / "var/lib/dpkg/status"
    debian = parse_status(status.read_text()) if status.exists() else ()
    integrity = lock_integrity(recipe.npm.package_lock) if recipe.npm else {}
    python = _python_packages(root / recipe.pypi.packages.lstrip("/")) if recipe.pypi else ()
    return Inventory(
        debian, tuple(sorted(set(_npm_packages(root, integrity)))), tuple(sorted(python))
    )


def parse_status(status: str) -> tuple[DebianPackage, ...]:
    """The installed packages in dpkg's status file."""
    found = []
    for paragraph in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status", "").endswith(" installed"):
            found.append(
                DebianPackage(fields["Package"], fields["Version"], fields["Architecture"])
            )
    return tuple(sorted(found))


def lock_integrity(package_lock: bytes) -> Mapping[tuple[str, str], str]:
    """The integrity of each package in a package-lock.json, by name and version."""
    packages: Mapping[str, Mapping[str, str]] = json.loads(package_lock)["packages"]
    return {
        (one.get("name") or path.rpartition("node_modules/")[2], one["version"]): one["integrity"]
        for path, one in packages.items()
        if "integrity" in one
    }


def _python_packages(folder: Path) -> Iterator[PythonPackage]:
    for one in distributions(path=[str(folder)]):
        # Only this field is an SPDX expression; the older `License` may be a whole text.
        licences = one.metadata.get_all("License-Expression") or [""]
        yield PythonPackage(one.name, one.version, licences[0])


def _npm_packages(root: Path, integrity: Mapping[tuple[str, str], str]) -> Iterator[NpmPackage]:
    for folder, _, names in os.walk(root):
        if "package.json" not in names or not _PACKAGE.search(folder):
            continue
        try:
            read = json.loads(Path(folder, "package.json").read_bytes())
            name, version = str(read["name"]), str(read["version"])
        except (ValueError, KeyError, TypeError):
            continue  # a marker such as {"type": "module"}, not a package
        licence = read.get("license", "")
        yield NpmPackage(
            name,
            version,
            integrity.get((name, version), ""),
            licence if isinstance(licence, str) else "",
        )
