"""Faults of Incus that matter to a host of agents, and the versions in which they are mended.

Incus has no extension to ask for a security fix, so versions are compared. A distribution mends an
older version and keeps its number: what its package is called decides where it is known.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tinyagentos import proc
from tinyagentos.model.errors import CommandFailed

Version = tuple[int, ...]
PACKAGES = ("incus-base", "incus")


@dataclass(frozen=True)
class Advisory:
    """A fault. since: the first version without it, by series (all of 6.0 is one, as is 7.0).

    newest: the first version without it of all other series. debian: the package with the fix, a
    backport of it included; empty where Debian has none.
    """

    name: str
    what: str
    series: tuple[tuple[Version, Version], ...]
    newest: Version
    debian: str


ADVISORIES = (
    # Templates of images were written through links: as root, anywhere on the host. With root in
    # a container the link can be `/etc/hostname`, which is written when an instance is renamed.
    Advisory(
        "CVE-2026-23954",
        "an image's template, such as that of /etc/hostname, can be written outside the container",
        (((6, 0), (6, 0, 6)),),
        (6, 21),
        "6.0.4-2+deb13u4~",
    ),
)


def parse_version(text: str) -> Version:
    """`6.0.4` as numbers; empty for what is no version."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def is_mended(advisory: Advisory, version: Version) -> bool:
    """Whether Incus of this version has the fix of its makers."""
    for series, since in advisory.series:
        if version[: len(series)] == series:
            return version >= since
    return version >= advisory.newest


async def find_open(
    version: str,
    *,
    package: Callable[[], Awaitable[str]] | None = None,
    advisories: Sequence[Advisory] = ADVISORIES,
) -> tuple[Advisory, ...]:
    """What is not mended in the Incus that says it has this version.

    package: the version of the distribution's package; empty: Incus is none. A version that cannot
    be read has everything open.
    """
    seen = parse_version(version)
    left = [one for one in advisories if not is_mended(one, seen)]
    if not left:
        return ()
    installed = await (package or read_package)()
    return tuple([one for one in left if not await _has_fix(installed, one.debian)])


async def read_package() -> str:
    """The version of the installed Debian package of Incus; empty when there is none."""
    for name in PACKAGES:
        try:
            shown = await proc.run(
                "dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Version}", name,
                within=10,
            )  # fmt: skip
        except CommandFailed:
            continue  # not installed by this name, or no Debian
        state, _, version = shown.partition("|")
        if state.startswith("ii"):
            return version
    return ""


async def _has_fix(installed: str, fixed: str) -> bool:
    """Whether the package is the one with the fix or a later one, by dpkg's own order."""
    if not installed or not fixed or "deb" not in installed:
        return False
    try:
        await proc.run("dpkg", "--compare-versions", installed, "ge", fixed, within=10)
    except CommandFailed:
        return False
    return True
