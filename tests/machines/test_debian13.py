"""Debian 13 as a person has it: a clone in their home, sudo, and nothing else done before."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.machine import DEBIAN_13, Machine, machine, wait_until

pytestmark = [pytest.mark.incus, pytest.mark.build, pytest.mark.e2e]

ROOT = Path(__file__).parent.parent.parent
EVIL = Path(__file__).parent / "evil.py"
UP_WITHIN = 600.0
BACK_WITHIN = 180.0


@pytest.fixture(scope="module")
def debian() -> Iterator[Machine]:
    """One machine for the tests of this file, which run in order; taOS is up on it."""
    with machine("taosdeb", DEBIAN_13, "10.199.13") as made:
        made.give(checkout(), "taos")
        made.person_says("cd taos && sudo ./taos up hello --framework opencode", UP_WITHIN)
        yield made


def checkout() -> dict[str, Path]:
    """What a clone of this project has."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "-c", "safe.directory=*", "ls-files", "-z"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return {name: ROOT / name for name in names}


def taos(debian: Machine, words: str, within: float = 120) -> str:
    return debian.person_says(f"cd taos && sudo ./taos {words}", within)


def state_of(debian: Machine, agent: str) -> str:
    done = debian.call("sh", "-c", "cd /home/ann/taos && ./taos agent list --json", within=30)
    if done.returncode:
        return "no answer"
    return next((one["state"] for one in json.loads(done.stdout) if one["name"] == agent), "gone")


def test_the_agent_is_ready_and_the_unit_is_hardened(debian: Machine) -> None:
    assert state_of(debian, "hello") == "ready"
    assert debian.root_says("systemctl", "is-active", "taos.service").strip() == "active"
    weighed = debian.root_says("systemd-analyze", "security", "taos.service", "--no-pager")
    level = float(re.findall(r"exposure level for taos.service: ([\d.]+)", weighed)[0])
    assert level <= 3.0


def test_what_the_server_starts_may_ask_for_less_of_the_processor(debian: Machine) -> None:
    # Weighing an image runs under nice(1), which the unit's filter of system calls refuses.
    limits = ("-p", "SystemCallFilter=~@privileged @resources", "-p", "SystemCallErrorNumber=EPERM")
    said = debian.root_says("systemd-run", "--quiet", "--pipe", *limits, "nice", "echo", "done")
    assert said.endswith("done\n")


def test_what_the_service_runs_is_not_the_persons_to_change(debian: Machine) -> None:
    pid = debian.root_says("systemctl", "show", "--value", "-p", "MainPID", "taos").strip()
    words = debian.root_says("cat", f"/proc/{pid}/cmdline") + debian.root_says(
        "cat", f"/proc/{pid}/environ"
    )
    assert "/home/" not in words
    assert "/opt/taos/" in words
    writable = debian.root_says(
        "find", "/opt/taos", "(", "-not", "-user", "root", "-o", "-perm", "/022", ")",
        "-not", "-type", "l",
    )  # fmt: skip
    assert writable == ""
    debian.person_says("echo 'raise SystemExit(7)' >> taos/tinyagentos/app.py")
    try:
        debian.root_says("systemctl", "restart", "taos.service")
        wait_until(lambda: state_of(debian, "hello") == "ready", 90, debian.said)
    finally:
        debian.person_says("sed -i '$ d' taos/tinyagentos/app.py")


def test_packages_that_the_person_swaps_are_not_run_by_root(debian: Machine) -> None:
    debian.give({".venv/bin/python": EVIL, "pip/__main__.py": EVIL}, "taos")
    debian.person_says("chmod +x taos/.venv/bin/python")
    try:
        assert "taos" in taos(debian, "--version")
        debian.root_says("test", "!", "-e", "/home/ann/was-root")
    finally:
        debian.person_says("rm -rf taos/.venv taos/pip")


def test_the_servers_files_are_closed_to_others(debian: Machine) -> None:
    debian.root_says("sh", "-c", "chmod 755 /var/lib/taos && chmod 644 /var/lib/taos/taos.db*")
    debian.root_says("systemctl", "restart", "taos.service")
    wait_until(lambda: state_of(debian, "hello") == "ready", 90, debian.said)
    opened = debian.root_says(
        "find", "/var/lib/taos", "/run/taos", "/run/taos-act.sock", "-perm", "/077",
        "-not", "-type", "l",
    )  # fmt: skip
    assert opened == ""


def test_the_hardened_server_puts_firewall_rules_back(debian: Machine) -> None:
    bridge = "inet"
    before = tables(debian)
    assert any(table.startswith(bridge) for table in before)
    debian.root_says("nft", "flush", "ruleset")
    # Incus makes its own rules anew a moment after those of taOS are back.
    wait_until(lambda: tables(debian) == before and is_well(debian), 60, debian.said)


def is_well(debian: Machine) -> bool:
    """Whether doctor finds nothing that is not as it must be."""
    return not debian.call("sh", "-c", "cd /home/ann/taos && ./taos doctor", within=60).returncode


def tables(debian: Machine) -> list[str]:
    """The tables that taOS makes for bridges; those of Incus are its own to put back."""
    shown = json.loads(debian.root_says("nft", "-j", "list", "tables"))["nftables"]
    found = [one["table"] for one in shown if "table" in one]
    return sorted(f"{one['family']} {one['name']}" for one in found if one["name"] != "incus")


def test_files_of_people_are_written_and_read_where_they_are(debian: Machine) -> None:
    debian.person_says("mkdir -m 700 -p safe")
    taos(debian, "agent export hello --to /home/ann/safe/hello.taos")
    refused = debian.call("sh", "-c", "cd /home/ann/taos && ./taos agent export hello --to /etc/x")
    assert refused.returncode != 0
    assert "The server may not write to /etc." in refused.stdout
    taos(debian, "agent delete hello")
    taos(debian, "agent import /home/ann/safe/hello.taos", 240)
    assert state_of(debian, "hello") == "ready"


def test_after_a_reboot_it_is_all_back(debian: Machine) -> None:
    debian.off()
    debian.on()
    wait_until(lambda: state_of(debian, "hello") == "ready", BACK_WITHIN, debian.said)


def test_after_a_power_cut_it_is_all_back(debian: Machine) -> None:
    debian.cut()
    debian.on()
    wait_until(lambda: state_of(debian, "hello") == "ready", BACK_WITHIN, debian.said)


def test_a_changed_checkout_is_installed_beside_the_last_one(debian: Machine) -> None:
    before = debian.root_says("readlink", "/opt/taos/current")
    debian.person_says("echo '# changed' >> taos/tinyagentos/app.py")
    taos(debian, "restart")
    after = debian.root_says("readlink", "/opt/taos/current")
    assert after != before
    assert debian.root_says("readlink", "/opt/taos/previous") == before
    wait_until(lambda: state_of(debian, "hello") == "ready", 90, debian.said)
