"""The check of the storage pool, on a daemon: what it says of a pool, and what setup changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.fake_incus import FakeIncus
from tinyagentos.config import Settings
from tinyagentos.host.check import Ground, Verdict
from tinyagentos.host.checks.pool import fix, look
from tinyagentos.host.facts import HostFacts

OPTIONS = "btrfs.mount_options"
FACTS = HostFacts("debian", "trixie", "x64", True, True, 8 << 30, 50 << 30, "ext4")


@pytest.fixture
async def fake_incus(tmp_path: Path) -> AsyncIterator[FakeIncus]:
    async with FakeIncus(tmp_path / "incus.sock") as daemon:
        yield daemon


def ground(daemon: FakeIncus, folder: Path, **settings: str) -> Ground:
    return Ground(Settings(data_dir=folder, incus_socket=daemon.socket, **settings), FACTS)  # type: ignore[arg-type] # as given


async def test_setup_closes_device_nodes_on_our_pool(fake_incus: FakeIncus, tmp_path: Path) -> None:
    here, said = ground(fake_incus, tmp_path), list[str]()
    found = await look(here)
    assert (found.verdict, found.plan) == (
        Verdict.fail,
        "mount pool taos so that they do not",
    )
    await fix(here, said.append)
    assert fake_incus.pools["taos"]["config"][OPTIONS] == "user_subvol_rm_allowed,nodev"
    assert said == ["an agent's files are mounted so from its next start on"]
    assert (await look(here)).verdict is Verdict.ok


async def test_a_pool_of_somebody_else_stays_as_it_is(
    fake_incus: FakeIncus, tmp_path: Path
) -> None:
    fake_incus.add_pool("theirs")
    here, said = ground(fake_incus, tmp_path, pool="theirs"), list[str]()
    found = await look(here)
    assert found.verdict is Verdict.warn
    assert f"incus storage set theirs {OPTIONS}=user_subvol_rm_allowed,nodev" in found.hint
    await fix(here, said.append)
    assert (fake_incus.pools["theirs"]["config"], said) == ({}, [])


@pytest.mark.parametrize("driver", ["zfs", "btrfs"])
async def test_a_pool_without_anything_to_change_is_left_alone(
    fake_incus: FakeIncus, tmp_path: Path, driver: str
) -> None:
    fake_incus.pools["taos"] |= {"driver": driver, "config": {OPTIONS: "nodev"}}
    here, said = ground(fake_incus, tmp_path), list[str]()
    assert (await look(here)).verdict is Verdict.ok
    await fix(here, said.append)
    assert (fake_incus.pools["taos"]["config"], said) == ({OPTIONS: "nodev"}, [])
