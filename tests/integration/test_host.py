"""Setting up a host with real Incus: what is missing is made, what is there is left alone."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.fixtures import delete_project
from tinyagentos import proc
from tinyagentos.config import Settings
from tinyagentos.host.check import Verdict
from tinyagentos.host.setup import examine_host, set_up_host
from tinyagentos.host.subnet import read_subnets
from tinyagentos.incus import Incus

pytestmark = pytest.mark.incus


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a second taOS on this host; what it made is gone afterwards."""
    suffix = secrets.token_hex(3)
    settings = Settings(
        data_dir=tmp_path / "data",
        incus_project=f"taos-test-{suffix}",
        bridge=f"taost{suffix}",
    )
    yield settings
    async with Incus.unix(settings.incus_socket, project=settings.incus_project) as incus:
        if await incus.projects.find(settings.incus_project):
            profile = await incus.profiles.get("default")
            await incus.profiles.update("default", config=profile.config, devices={})
            await delete_project(incus, settings.incus_project)
        if await incus.with_project("default").networks.find(settings.bridge):
            await incus.with_project("default").networks.delete(settings.bridge)


async def everything(settings: Settings) -> str:
    """What Incus has, as text to compare."""
    async with Incus.unix(settings.incus_socket, project="default") as incus:
        return repr(
            (
                await incus.projects.list(),
                await incus.networks.list(),
                await incus.storage.list_pools(),
                await incus.profiles.list(),
            )
        )


async def test_a_dry_run_changes_nothing(settings: Settings) -> None:
    before = await everything(settings)
    plans = await set_up_host(settings, report=lambda _: None, dry_run=True)
    assert f"make the bridge {settings.bridge}" in plans
    assert f"make the project {settings.incus_project}" in plans
    assert await everything(settings) == before
    assert not settings.data_dir.exists()


async def test_what_is_missing_is_made_once(settings: Settings) -> None:
    async with Incus.unix(settings.incus_socket, project="default") as incus:
        pools = await incus.storage.list_pools()
        used = read_subnets("", await proc.run("ip", "-json", "-4", "address", within=10))
        assert await set_up_host(settings, report=lambda _: None)
        after = await everything(settings)
        assert await set_up_host(settings, report=lambda _: None) == ()
        assert await everything(settings) == after
        assert [pool.config for pool in await incus.storage.list_pools()] == [
            pool.config for pool in pools
        ], "pools that were there are used as they are"

        network = await incus.networks.get(settings.bridge)
        (ours,) = read_subnets(
            "", json.dumps([{"addr_info": [_address(network.config["ipv4.address"])]}])
        )
        assert not any(ours.overlaps(subnet) for subnet in used if subnet.prefixlen)
        assert network.config["ipv4.nat"] == "true"
        assert network.config["ipv6.address"] == "none"

        project = await incus.projects.get(settings.incus_project)
        assert project.config["user.taos.created-by"] == "taos"
        profile = await incus.with_project(settings.incus_project).profiles.get("default")
        assert profile.devices["eth0"]["network"] == settings.bridge
        assert profile.devices["eth0"]["security.port_isolation"] == "true"
        assert profile.devices["root"]["pool"] in {pool.name for pool in pools}

    assert settings.token_file.stat().st_mode & 0o777 == 0o600
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700
    results = await examine_host(settings)
    assert [one.finding.said for one in results if one.finding.verdict is Verdict.fail] == []


async def test_a_project_and_a_profile_that_are_there_stay_as_they_are(settings: Settings) -> None:
    async with Incus.unix(settings.incus_socket, project=settings.incus_project) as incus:
        theirs = {"features.images": "true", "features.profiles": "true", "user.mine": "yes"}
        await incus.projects.ensure(settings.incus_project, theirs, "mine")
        await incus.profiles.update(
            "default", config={"limits.processes": "500"}, devices={"eth0": {"type": "none"}}
        )
        await set_up_host(settings, report=lambda _: None)
        project = await incus.projects.get(settings.incus_project)
        profile = await incus.profiles.get("default")
        assert (project.description, project.config["user.mine"]) == ("mine", "yes")
        assert "user.taos.created-by" not in project.config
        assert profile.config == {"limits.processes": "500"}
        assert profile.devices["eth0"] == {"type": "none"}
        assert profile.devices["root"]["path"] == "/"


async def test_a_profile_that_others_use_too_is_not_touched(settings: Settings) -> None:
    async with Incus.unix(settings.incus_socket, project=settings.incus_project) as incus:
        await incus.projects.ensure(settings.incus_project, {"features.profiles": "false"})
        shared = await incus.with_project("default").profiles.get("default")
        results = await examine_host(settings)
        (found,) = (one.finding for one in results if one.check.name == "profile")
        if "root" in shared.devices and "eth0" in shared.devices:
            assert found.verdict is Verdict.ok
        else:
            assert found.plan == ""
            assert "not the project's own" in found.said
        assert await incus.with_project("default").profiles.get("default") == shared


def _address(text: str) -> dict[str, object]:
    local, _, prefix = text.partition("/")
    return {"family": "inet", "local": local, "prefixlen": int(prefix)}
