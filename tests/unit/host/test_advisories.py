"""Which security fixes an Incus has, by its version or by that of its Debian package."""

from __future__ import annotations

import pytest

from tinyagentos.host.advisories import ADVISORIES, find_open, is_mended, parse_version

TEMPLATES = ADVISORIES[0]


@pytest.mark.parametrize(
    ("version", "mended"),
    [
        ("6.0.4", False), ("6.0.5", False), ("6.0.6", True), ("6.0.10", True), ("6.3", False),
        ("6.20", False), ("6.21", True), ("6.21.0", True), ("7.0.0", True), ("", False),
        ("unknown", False),
    ],
)  # fmt: skip
def test_a_version_is_compared_within_its_series(version: str, mended: bool) -> None:
    assert is_mended(TEMPLATES, parse_version(version)) is mended


@pytest.mark.parametrize(
    ("package", "open_"),
    [
        ("6.0.4-2+deb13u4", False), ("6.0.4-2+deb13u12", False),
        ("6.0.4-2+deb13u7~bpo12+1", False), ("6.0.4-2+deb13u3", True), ("6.0.4-2", True),
        ("1:6.0.4-202605010000", True), ("", True),
    ],
)  # fmt: skip
async def test_a_package_with_the_fix_counts(package: str, open_: bool) -> None:
    async def read() -> str:
        return package

    assert bool(await find_open("6.0.4", package=read)) is open_


async def test_a_fixed_version_asks_for_no_package() -> None:
    async def read() -> str:
        raise AssertionError("asked")

    assert await find_open("6.0.6", package=read) == ()
