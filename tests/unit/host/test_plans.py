"""Pool, subnet, profile and facts: decided from values."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.host.checks.limits import controllers
from tinyagentos.host.checks.pool import GIB, LEAST, LEFT_FREE, PoolPlan, loop_size, plan_pool
from tinyagentos.host.checks.profile import missing_devices
from tinyagentos.host.facts import filesystem_of, read_meminfo
from tinyagentos.host.incus_daemon import SUBIDS, ensure_subids
from tinyagentos.host.subnet import CANDIDATES, pick_subnet, read_subnets
from tinyagentos.host.token import ensure_token
from tinyagentos.incus import StoragePool
from tinyagentos.model.errors import HostNotReady, NoSpace

CLOSED = {"btrfs.mount_options": "user_subvol_rm_allowed,nodev"}
NOTHING = MappingProxyType[str, str]({})


def pool(name: str, driver: str, config: Mapping[str, str] = NOTHING) -> StoragePool:
    return StoragePool(name, driver, "Created", "", config, ())


def plan(*pools: StoragePool, wanted: str = "", **changes: object) -> PoolPlan:
    facts: dict[str, object] = {
        "drivers": ("btrfs", "dir"), "filesystem": "ext4", "free_bytes": 80 * GIB, "has_loop": True
    }  # fmt: skip
    return plan_pool(pools, wanted, **{**facts, **changes})  # type: ignore[arg-type] # as given


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (plan(pool("a", "dir"), pool("z", "zfs")), ("z", "zfs", True)),
        (plan(pool("a", "btrfs"), pool("taos", "btrfs")), ("taos", "btrfs", True)),
        (plan(pool("a", "dir"), pool("b", "btrfs"), wanted="a"), ("a", "dir", True)),
        (plan(), ("taos", "btrfs", False)),
        (plan(pool("a", "dir"), has_loop=False), ("a", "dir", True)),
        (plan(has_loop=False), ("taos", "dir", False)),
        (plan(drivers=("dir",)), ("taos", "dir", False)),
        (plan(filesystem="btrfs"), ("taos", "btrfs", False)),
    ],
    ids=[
        "an existing copy-on-write pool is used",
        "ours before others",
        "the one asked for",
        "else a loop file",
        "without loop devices an existing pool",
        "without loop devices and pools a folder",
        "without btrfs a folder",
        "on btrfs a subvolume",
    ],
)
def test_the_pool_is_chosen(found: PoolPlan, expected: tuple[str, str, bool]) -> None:
    assert (found.name, found.driver, found.exists) == expected


@pytest.mark.parametrize(
    ("free", "size"),
    [(80, "40GiB"), (30, "20GiB"), (11, "9GiB"), (900, "200GiB")],
    ids=[
        "half of what is free",
        "enough for a few agents",
        "a small card: nearly all",
        "in reason",
    ],
)
def test_a_loop_pool_is_sized_to_the_disk(free: int, size: str) -> None:
    assert plan(free_bytes=free * GIB).config == {"size": size, **CLOSED}


def test_on_btrfs_the_pool_is_where_incus_takes_it() -> None:
    assert plan(filesystem="btrfs").config == {"source": "/var/lib/incus/storage-pools/taos"}


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        (pool("taos", "btrfs"), CLOSED),
        (pool("taos", "btrfs", CLOSED), {}),
        (
            pool("taos", "btrfs", {"btrfs.mount_options": "dev,compress=zstd"}),
            {"btrfs.mount_options": "compress=zstd,nodev"},
        ),
        (
            pool("taos", "btrfs", {"btrfs.mount_options": "nodev,dev"}),
            {"btrfs.mount_options": "nodev"},
        ),
        (pool("taos", "btrfs", {"source": "/var/lib/incus/storage-pools/taos"}), {}),
        (pool("taos", "zfs"), {}),
        (pool("taos", "dir"), {}),
    ],
    ids=[
        "one from before gets the option",
        "one that has it stays",
        "other options stay",
        "the last word counts",
        "a subvolume is not mounted",
        "zfs has no such key",
        "a folder is not mounted",
    ],
)
def test_device_nodes_on_the_pool_are_closed(found: StoragePool, changes: dict[str, str]) -> None:
    assert plan(found, wanted=found.name).config == changes


def test_a_missing_pool_that_was_asked_for_is_a_sentence() -> None:
    with pytest.raises(HostNotReady, match="no storage pool 'x'"):
        plan(wanted="x")


def test_a_full_disk_is_refused_with_numbers() -> None:
    with pytest.raises(NoSpace, match=r"7\.0 GiB free"):
        loop_size(7 * GIB)


@given(st.integers(min_value=LEAST + LEFT_FREE, max_value=2**50))
def test_a_loop_pool_always_leaves_room_to_the_host(free: int) -> None:
    assert LEAST <= loop_size(free) <= free - LEFT_FREE


def test_the_subnet_overlaps_none_in_use() -> None:
    routes = json.dumps([{"dst": "default"}, {"dst": "10.87.0.0/16"}, {"dst": "10.91.5.0/24"}])
    addresses = json.dumps(
        [{"addr_info": [{"family": "inet", "local": "10.91.77.9", "prefixlen": 22}]}]
    )
    assert str(pick_subnet(read_subnets(routes, addresses))) == "10.91.129.0/24"


def test_a_vpn_over_everything_is_no_reason_to_refuse() -> None:
    assert pick_subnet([ipaddress.IPv4Network("0.0.0.0/0")]) == CANDIDATES[0]


def test_no_free_subnet_is_a_sentence() -> None:
    with pytest.raises(HostNotReady, match="No private subnet"):
        pick_subnet([ipaddress.IPv4Network("10.0.0.0/8")])


def test_a_profile_gets_only_what_it_lacks() -> None:
    assert set(missing_devices(None, "p", "b")) == {"root", "eth0"}


def test_the_controllers_of_both_cgroup_versions_count() -> None:
    legacy = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t9\t1\npids\t8\t2\t0\n"
    assert controllers("cpu io", legacy) == {"cpu", "io", "memory"}


def test_memory_is_read_in_bytes() -> None:
    assert read_meminfo("MemTotal:       16 kB\nHugePages_Total:       3\n") == {
        "MemTotal": 16384, "HugePages_Total": 3
    }  # fmt: skip


def test_the_file_system_is_that_of_the_nearest_mount() -> None:
    mounts = "a / ext4 rw 0 0\nb /var btrfs rw 0 0\nc /var/lib/incusx xfs rw 0 0\n"
    assert filesystem_of(Path("/var/lib/incus"), mounts) == "btrfs"


def test_root_gets_user_ids_once(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("me:1:2\n")
    ensure_subids(file)
    ensure_subids(file)
    assert file.read_text() == "me:1:2\n" + SUBIDS


def test_the_token_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "data" / "token"
    token = ensure_token(path)
    assert ensure_token(path) == token
    assert len(token) > 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["token"]
