"""The pinned dependencies: all of them, with checksums, and from nowhere in particular."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME: list[str] = PROJECT["dependencies"]
DEV: list[str] = PROJECT["optional-dependencies"]["dev"]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def read_lock(name: str) -> dict[str, str]:
    """Each requirement's line with its checksums, by package."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return {name_of(line): line for line in lines if line and not line.startswith("#")}


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [("requirements.lock", RUNTIME), ("requirements-dev.lock", RUNTIME + DEV)],
)
def test_every_dependency_is_pinned_with_checksums(lock: str, wanted: list[str]) -> None:
    pinned = read_lock(lock)
    assert {name_of(one) for one in wanted} <= set(pinned)
    assert all("==" in line and "--hash=sha256:" in line for line in pinned.values())


def test_the_developers_lock_has_the_same_versions() -> None:
    developers = read_lock("requirements-dev.lock")
    for name, line in read_lock("requirements.lock").items():
        assert developers[name].split("--hash")[0] == line.split("--hash")[0]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_names_no_place(lock: str) -> None:
    for line in read_lock(lock).values():
        assert "/" not in line.replace("--hash=sha256:", "")
