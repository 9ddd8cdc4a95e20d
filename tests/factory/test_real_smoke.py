"""A real image: held to its lock, weighed, smoke-booted; broken on purpose; killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from bench.common import ROOT, incus
from tests.unit.factory.test_smoke import pem
from tinyagentos.agents.recipes import build_image
from tinyagentos.agents.smoke import PREFIX, smoke_image
from tinyagentos.config import Settings
from tinyagentos.factory.image_file import open_image
from tinyagentos.factory.lock import beside, read_lock
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.factory.report import measure_image
from tinyagentos.factory.smoke import (
    Checks,
    check_unpacked,
    join_parts,
    look_inside,
    program_checks,
)
from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.smoke import CheckState

pytestmark = [pytest.mark.incus, pytest.mark.build]
START_WITHIN = 120.0


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings with a data folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="taos-") as folder:
        yield Settings(data_dir=Path(folder))


def smoke_projects() -> set[str]:
    listed = incus("project", "list", "--format", "csv").splitlines()
    names = {line.split(",")[0].removesuffix(" (current)") for line in listed}
    return {name for name in names if name.startswith(PREFIX)}


def test_a_real_image_passes(built_image: Path, settings: Settings) -> None:
    before = smoke_projects()
    checks = asyncio.run(smoke_image(built_image, settings, lambda _: None))
    assert [one for one in checks if one.state is not CheckState.passed] == []
    assert {"import", "deploy and readiness", "two turns", "native modules", "venv"} <= {
        one.name for one in checks
    }
    assert smoke_projects() <= before
    assert list(settings.cache_dir.iterdir()) == []


@pytest.mark.parametrize("framework", ["hermes-agent", "opencode"])
def test_another_framework_passes(framework: str, settings: Settings) -> None:
    """Each is data only: built, deployed, and talked to through the model gateway."""
    out = settings.data_dir / "out"
    built = asyncio.run(
        build_image(framework, "", out, fast=True, settings=settings, report=lambda _: None)
    )
    checks = asyncio.run(smoke_image(built.path, settings, lambda _: None))
    assert [one for one in checks if one.state is not CheckState.passed] == []
    assert "two turns" in {one.name for one in checks}


def test_a_real_image_is_weighed_to_the_byte(built_image: Path) -> None:
    weighed = measure_image(built_image)
    assert sum(one.packed_bytes for one in weighed.components) == built_image.stat().st_size
    groups = {one.name: one.unpacked_bytes for one in weighed.groups}
    assert groups["npm"] > groups["node"] > 50_000_000
    assert groups["other"] < 0.05 * weighed.unpacked_bytes


def test_a_build_held_to_its_lock_is_the_same_and_to_another_is_refused(
    built_image: Path, settings: Settings
) -> None:
    locked = beside(built_image, "lock.json")

    def build(lock: Path) -> Path:
        out = settings.data_dir / "out"
        return asyncio.run(
            build_image(
                "openclaw", "", out, fast=True, settings=settings, report=lambda _: None, lock=lock
            )
        ).path

    again = build(locked)
    assert again.read_bytes() == built_image.read_bytes()
    assert beside(again, "cdx.json").read_bytes() == beside(built_image, "cdx.json").read_bytes()
    again.unlink()
    lock = read_lock(locked)
    git = next(one for one in lock.debian if one.name == "git")
    older = tuple(
        dataclasses.replace(one, version="1:1.0") if one == git else one for one in lock.debian
    )
    changed = settings.data_dir / "changed.lock.json"
    changed.write_text(dataclasses.replace(lock, debian=older).render())
    with pytest.raises(BuildFailed, match=re.escape(f"resolved {git.version}")):
        build(changed)
    assert not again.exists()


async def test_its_programs_run_in_a_folder_as_they_do_by_emulation(
    built_image: Path, settings: Settings
) -> None:
    part = join_parts(load_recipe("debian-13").smoke, load_recipe("openclaw").smoke)
    checks = Checks(lambda _: None)
    files = look_inside(built_image).files
    await check_unpacked(built_image, part, files, settings.cache_dir, checks)
    assert [one for one in checks.done if one.state is not CheckState.passed] == []
    assert [one.name for one in checks.done] == ["unpack", *program_checks(part)]
    assert list(settings.cache_dir.iterdir()) == []


def break_image(image: Path, out: Path) -> None:
    """Copy the image with a CA, a machine-id, a setuid program, a root unit; one module less."""
    added = {
        "rootfs/usr/local/share/ca-certificates/proxy.crt": (pem("CERTIFICATE", 7), 0o644),
        "rootfs/usr/local/bin/toroot": (b"#!/bin/sh\n", 0o4755),
    }
    changed = {
        "rootfs/etc/machine-id": lambda _: b"0123456789abcdef0123456789abcdef\n",
        "rootfs/etc/systemd/system/agent.service": lambda old: old.replace(b"User=agent\n", b""),
    }
    waiting = sorted(added, key=lambda name: name.split("/"))
    compressor = zstandard.ZstdCompressor(level=1)
    with (
        open_image(image) as source,
        out.open("wb") as file,
        compressor.stream_writer(file) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in source:
            while waiting and waiting[0].split("/") < member.name.split("/"):
                name = waiting.pop(0)
                data, mode = added[name]
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), mode
                tar.addfile(info, io.BytesIO(data))
            if member.name.endswith("koffi.node"):
                continue
            content = source.extractfile(member) if member.isreg() else None
            if content and member.name in changed:
                data = changed[member.name](content.read())
                member.size, content = len(data), io.BytesIO(data)
            tar.addfile(member, content)


def test_a_broken_image_fails_by_name(
    built_image: Path, settings: Settings, tmp_path: Path
) -> None:
    broken = tmp_path / built_image.name
    break_image(built_image, broken)
    checks = asyncio.run(smoke_image(broken, settings, lambda _: None))
    failed = {one.name: one.detail for one in checks if one.state is CheckState.failed}
    assert failed.keys() == {
        "no identity", "no certificate or key of the host", "privileged programs",
        "agent's user", "native modules",
    }, failed  # fmt: skip
    assert "proxy.crt" in failed["no certificate or key of the host"]
    assert "/usr/local/bin/toroot" in failed["privileged programs"]
    assert "koffi" in failed["native modules"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_smoke_test_that_is_ended_leaves_nothing_for_long(
    sign: signal.Signals, built_image: Path, settings: Settings
) -> None:
    before = smoke_projects()
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "TAOS_DATA_DIR": str(settings.data_dir)
    }  # fmt: skip
    argv = [sys.executable, "-m", "tinyagentos.cli", "image", "smoke", str(built_image)]
    process = subprocess.Popen(
        argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        mine = wait_for_instance(before)
        process.send_signal(sign)
        _, said = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if sign is signal.SIGINT:
        assert process.returncode == 3, said
        assert mine not in smoke_projects()
        return
    assert mine in smoke_projects()
    wrong = settings.data_dir / "no-image"
    # The next one removes it before anything else, whatever becomes of its own image.
    asyncio.run(smoke_image(break_off(built_image, wrong), settings, lambda _: None))
    assert mine not in smoke_projects()


def break_off(image: Path, out: Path) -> Path:
    """An image that says what it is, and has nothing inside."""
    with (
        open_image(image) as source,
        tarfile.open(out, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in source:
            if member.name == "metadata.yaml":
                tar.addfile(member, source.extractfile(member))
                break
    return out


def wait_for_instance(before: set[str]) -> str:
    """The new smoke project, as soon as an instance runs in it."""
    until = time.monotonic() + START_WITHIN
    while time.monotonic() < until:
        for project in smoke_projects() - before:
            if "RUNNING" in incus("list", "--format", "csv", "-c", "s", project=project):
                return project
        time.sleep(0.2)
    raise AssertionError("no smoke test started an instance")
