"""What builds leave behind: nothing, however they end."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tinyagentos.factory.isolation import build_folder, isolated


async def test_a_builds_folder_goes_when_the_build_fails(tmp_path: Path) -> None:
    async def build() -> None:
        async with build_folder(tmp_path) as folder:
            (folder / "rootfs").mkdir()
            raise RuntimeError("the build fails")

    with pytest.raises(RuntimeError):
        await build()
    assert list(tmp_path.iterdir()) == []


async def test_the_folder_of_a_build_that_crashed_goes_with_the_next_build(tmp_path: Path) -> None:
    (tmp_path / "build-crashed" / "rootfs").mkdir(parents=True)
    (tmp_path / "node.tar").touch()
    async with build_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, "node.tar"}


async def test_the_folder_of_a_build_under_way_stays(tmp_path: Path) -> None:
    other = tmp_path / "build-other"
    other.mkdir()
    descriptor = os.open(other, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    async with build_folder(tmp_path):
        assert other.is_dir()
    os.close(descriptor)


def test_a_command_dies_with_us_and_takes_its_own_along() -> None:
    argv = isolated("mmdebstrap", "trixie")
    assert argv[:2] == ("setpriv", "--pdeathsig=KILL")
    assert "--kill-child" in argv
    assert argv[-2:] == ("mmdebstrap", "trixie")
