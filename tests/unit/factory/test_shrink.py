"""Files that have to stay get smaller, and stay what they are."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tinyagentos.factory.shrink import store_zips, strip_programs
from tinyagentos.factory.trim import Saving, apply_trim, list_files, plan_trim, sum_up
from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.recipe import TrimRule


def make_zip(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        program = zipfile.ZipInfo("pip/__main__.py", (2025, 5, 2, 0, 0, 0))
        program.external_attr = 0o755 << 16
        program.compress_type = zipfile.ZIP_DEFLATED
        new.writestr(program, b"x" * 10_000)
        new.writestr("pip/empty", b"")


async def test_a_stored_zip_has_the_same_members(tmp_path: Path) -> None:
    wheel = tmp_path / "usr" / "pip.whl"
    make_zip(wheel)
    before = wheel.stat()
    [saving] = await store_zips(tmp_path, ["/usr/*.whl"])
    assert (saving.files, saving.before_bytes, saving.after_bytes) == (
        1, before.st_size, wheel.stat().st_size
    )  # fmt: skip
    assert wheel.stat().st_mtime_ns == before.st_mtime_ns
    with zipfile.ZipFile(wheel) as stored:
        assert stored.testzip() is None
        first = stored.infolist()[0]
        assert (first.compress_type, first.external_attr >> 16) == (zipfile.ZIP_STORED, 0o755)
        assert (first.date_time, stored.read(first)) == ((2025, 5, 2, 0, 0, 0), b"x" * 10_000)
    first_bytes = wheel.read_bytes()
    await store_zips(tmp_path, ["/usr/*.whl"])
    assert wheel.read_bytes() == first_bytes


async def test_a_name_that_has_gone_stale_fails_the_build(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"'/usr/\*.whl' in `store` matches nothing"):
        await store_zips(tmp_path, ["/usr/*.whl"])
    with pytest.raises(BuildFailed, match="in `strip` matches nothing"):
        await strip_programs(tmp_path, ["/opt/node/bin/node"], "x64")


async def test_what_cannot_be_stripped_says_which_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("no program")
    with pytest.raises(BuildFailed) as failed:
        await strip_programs(tmp_path, ["/node"], "arm64")
    assert "binutils-aarch64-linux-gnu" in failed.value.hint


async def test_nothing_asked_nothing_done(tmp_path: Path) -> None:
    assert await strip_programs(tmp_path, [], "x64") == await store_zips(tmp_path, []) == ()


def test_folders_of_programs_that_trimming_empties_go_too(tmp_path: Path) -> None:
    for path in ("usr/a/b/x.map", "usr/a/c/y.map", "usr/a/c/y", "var/log/apt/x.map"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1234")
    removals = plan_trim(list_files(tmp_path), [TrimRule("maps", ("/**/*.map",), "")])
    apply_trim(tmp_path, removals)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"usr", "usr/a", "usr/a/c", "usr/a/c/y", "var", "var/log", "var/log/apt"}
    assert sum_up(removals) == (Saving("maps", 3, 12),)
