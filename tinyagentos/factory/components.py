"""Which component of an image a path belongs to: a Debian or npm package, Node, taOS, or none."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

LISTS = "/var/lib/dpkg/info/"
OTHER = "other"
CACHES = "caches"
_NPM = re.compile(r"/node_modules/((?:@[^/]+/)?[^/]+)")
_PYTHON = re.compile(r"/lib/python3[^/]*/(?:dist|site)-packages/([^/]+)")
_BYTE_CODE = re.compile(r"(.*/)__pycache__/([^/.]+)\.[^/]*\.pyc$")
# dpkg remembers the paths that packages were made with; on the disk these are links into /usr.
_MERGED = re.compile(r"/(?:bin|sbin|lib|lib64)/")
_TAOS = re.compile(r"/taos/|/taos-|[-/]taos\.|/systemd/system/agent\.service|wants/agent\.service")
_SECTIONS = (
    ("/opt/node/", "node"),
    ("/var/lib/dpkg/", "debian:(database)"),
    ("/var/cache/debconf/", "debian:(database)"),
    # Compiled from the package's files when it is installed.
    ("/usr/lib/udev/hwdb.bin", "debian:udev"),
    ("/var/lib/systemd/catalog/", "debian:systemd"),
    ("/var/cache/", CACHES),
)


class Owners:
    """Tells the component of each path, by dpkg's lists of the files that packages brought."""

    def __init__(self, lists: Mapping[str, str]) -> None:
        self._packages: dict[str, str] = {}
        for package, listed in lists.items():
            for path in listed.splitlines():
                merged = f"/usr{path}" if _MERGED.match(path) else path
                self._packages[merged] = package

    def find(self, path: str) -> str:
        """The component: `debian:git`, `npm:openclaw`, `node`, `python:x`, `taos`, `other`.

        A package's own dependencies inside its folder count as the package: it brought them.
        """
        if npm := _NPM.search(path):
            name = npm[1]
            return "npm:(index)" if name.startswith(".") else f"npm:{name}"
        source = path
        if byte_code := _BYTE_CODE.match(path):
            source = f"{byte_code[1]}{byte_code[2]}.py"
        if package := self._packages.get(source):
            return f"debian:{package}"
        for prefix, name in _SECTIONS:
            if path.startswith(prefix):
                return name
        if python := _PYTHON.search(path):
            return f"python:{python[1].partition('-')[0]}"
        return "taos" if _TAOS.search(path) else OTHER


def package_of_list(path: str) -> str:
    """The package whose list of files this path is; empty when it is none."""
    if not (path.startswith(LISTS) and path.endswith(".list")):
        return ""
    return path.removeprefix(LISTS).removesuffix(".list").partition(":")[0]


def sum_by_component(files: Iterable[tuple[str, int]], owners: Owners) -> dict[str, int]:
    """The bytes of each component; files: path and size."""
    sums: dict[str, int] = {}
    for path, size in files:
        name = owners.find(path)
        sums[name] = sums.get(name, 0) + size
    return sums


def measure_root(root: Path) -> dict[str, int]:
    """The bytes of each component of a root in a folder; a file with two names counts once."""
    lists = {
        path.name.removesuffix(".list").partition(":")[0]: path.read_text()
        for path in (root / LISTS.lstrip("/")).glob("*.list")
    }
    return sum_by_component(_list_once(root), Owners(lists))


def _list_once(root: Path) -> Iterable[tuple[str, int]]:
    seen: set[int] = set()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118 - tens of thousands of files
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_ino not in seen:
                if found.st_nlink > 1:
                    seen.add(found.st_ino)
                yield path[len(str(root)) :], found.st_size
