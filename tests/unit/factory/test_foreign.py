"""Building for another processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.factory.test_build import RecordingTarget
from tinyagentos.factory.build import carry_out, plan_build
from tinyagentos.factory.foreign import bring_loader, check_runs
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.host.facts import host_arch
from tinyagentos.model.errors import BuildFailed


async def test_tools_run_as_themselves_and_packages_are_the_targets() -> None:
    target = RecordingTarget()
    plan = plan_build(
        load_recipe("openclaw"), load_recipe("debian-13"), run_tool=("/ld",), npm_arch="arm64"
    )
    await carry_out(plan, target, [Path("node.tar")], lambda said: None)
    [install] = target.find("bun install")
    assert target.commands[install].startswith("/ld /opt/taos-build/bun install")
    assert target.commands[install].endswith("--cpu=arm64 --os=linux")


def test_the_loader_comes_with_the_c_library(tmp_path: Path) -> None:
    loader, option, folder = bring_loader(host_arch(), tmp_path, "/opt/build/lib")
    assert (tmp_path / loader.lstrip("/")).is_file()
    assert (option, folder) == ("--library-path", "/opt/build/lib")
    assert (tmp_path / "opt/build/lib/libc.so.6").is_file()


async def test_a_host_that_cannot_run_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "arch-test"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed) as failed:
        await check_runs("arm64")
    assert "qemu-user-static, binfmt-support and binutils-aarch64" in failed.value.hint
