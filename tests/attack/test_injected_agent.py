"""A prompt-injected agent with root inside its container attacks the host and its neighbours.

Each test runs on a host of its own (private_host.py): what it does to a firewall stays in there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

import pytest

from bench.common import Server
from tests.attack.private_host import (
    HOME,
    INTERNET,
    PORT,
    PrivateHost,
    kill,
    private_host,
    server_in,
    until,
)

pytestmark = pytest.mark.incus
# Tries each address over and over, and says which connections were taken, one line a try.
PROBE = """
import socket, sys, time
port, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for address in sys.argv[3:]:
        try:
            socket.create_connection((address, port), 0.3).close()
            print(time.monotonic(), address, "open", flush=True)
        except OSError:
            print(time.monotonic(), address, "closed", flush=True)
    time.sleep(0.05)
"""
# Claims the address as its own MAC address, to all, many times.
CLAIM = """
import fcntl, socket, struct, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0x0806))
mac, address = raw.getsockname()[4], socket.inet_aton(sys.argv[1])
head = b"\\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 2)
for _ in range(20):
    raw.send(head + mac + address + b"\\xff" * 6 + address)
    time.sleep(0.05)
"""
# Frames to everybody: a DHCP answer, a datagram in the name of another, and an IPv6 packet such as
# a router sends. The last words of each are its name.
FORGE = """
import socket, struct, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
mac = raw.getsockname()[4]
def frame(source, port, name):
    udp = struct.pack("!HHHH", 67, port, 8 + len(name), 0) + name
    head = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                       socket.inet_aton(source), b"\\xff" * 4)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xffff) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xffff) + head[12:]
    return b"\\xff" * 6 + mac + b"\\x08\\x00" + head + udp
own, other = sys.argv[1:]
router = socket.inet_pton(socket.AF_INET6, "fe80::1")
all_nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
v6 = struct.pack("!IHBB16s16s", 6 << 28, 8, 59, 255, router, all_nodes) + b"forged-6"
for _ in range(10):
    raw.send(frame(own, 68, b"forged-dhcp"))
    raw.send(frame(other, 5353, b"forged-name"))
    raw.send(b"\\x33\\x33\\0\\0\\0\\1" + mac + b"\\x86\\xdd" + v6)
    time.sleep(0.05)
"""
# The names of such frames that arrive at the interface.
HEAR = """
import re, socket, sys, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind((sys.argv[1], 0))
raw.settimeout(0.2)
print("ready", flush=True)
end, heard = time.monotonic() + 4, set()
while time.monotonic() < end:
    try:
        heard |= set(re.findall(rb"forged-[a-z0-9]+", raw.recv(2000)))
    except TimeoutError:
        continue
print(*(one.decode() for one in heard))
"""


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    """One host for the tests of this file."""
    with private_host() as made:
        yield made


@pytest.fixture
def taos(host: PrivateHost) -> Iterator[Server]:
    """A server whose `nft` refuses while the file `refuse` is in the host's folder."""
    tools = host.folder / "tools"
    tools.mkdir(exist_ok=True)
    nft = tools / "nft"
    nft.write_text(f'#!/bin/sh\n[ -e {host.folder}/refuse ] && exit 1\nexec /usr/sbin/nft "$@"\n')
    nft.chmod(0o755)
    with server_in(host, PATH=f"{tools}:{os.environ['PATH']}") as made:
        yield made


@contextlib.contextmanager
def agents(taos: Server, *names: str) -> Iterator[list[str]]:
    """Agents of these names; their instances."""
    for name in names:
        job = taos.wait(taos.deploy(name, source="image", memory="512MiB")["id"])
        assert job["state"] == "succeeded", job["error"]
    try:
        yield [agent(taos, name)["instance"] for name in names]
    finally:
        for name in names:
            taos.delete(name)


def agent(taos: Server, name: str) -> dict[str, str]:
    """The agent as the API shows it."""
    shown: dict[str, str] = taos.http.get(f"/api/agents/{name}").json()
    return shown


def address_of(host: PrivateHost, instance: str) -> str:
    """The instance's address, once it has one."""
    argv = ("list", instance, "--format=csv", "--columns=4")
    until(lambda: "(eth0)" in host.incus(*argv))
    return host.incus(*argv).split(" ")[0]


def gateway_of(host: PrivateHost) -> str:
    """The address of the agents' bridge."""
    return host.incus("network", "get", "taos-internet", "ipv4.address").partition("/")[0].strip()


def probed(
    host: PrivateHost, instance: str, seconds: float, *addresses: str
) -> list[tuple[float, str, bool]]:
    """What the instance reached: when, which address, whether."""
    argv = (sys.executable, "-c", PROBE, str(PORT), str(seconds), *addresses)
    shown = host.run(*host.inside(instance, *argv), within=seconds + 30)
    lines = [line.split() for line in shown.splitlines()]
    return [(float(when), address, said == "open") for when, address, said in lines]


def reached(host: PrivateHost, instance: str, *addresses: str) -> set[str]:
    """Those of the addresses that the instance reaches now."""
    return {address for _, address, is_open in probed(host, instance, 1, *addresses) if is_open}


def doctor(host: PrivateHost, taos: Server) -> str:
    """What `taos doctor` says of the walls."""
    settings = [f"{key}={value}" for key, value in taos.environment.items() if "TAOS_" in key]
    ended = host.attempt("env", *settings, sys.executable, "-m", "tinyagentos.cli", "doctor")
    return " ".join((ended.stdout + ended.stderr).split())


def test_a_flushed_firewall_is_closed_again_while_the_agent_tries_to_get_out(
    host: PrivateHost, taos: Server
) -> None:
    with agents(taos, "hello") as (instance,):
        address_of(host, instance)
        gateway = gateway_of(host)
        targets = (gateway, "203.0.113.1", HOME, INTERNET)
        assert reached(host, instance, *targets) == {INTERNET}
        argv = (sys.executable, "-c", PROBE, str(PORT), "15", *targets)
        prober = host.start(*host.inside(instance, *argv))
        time.sleep(1)
        host.run("nft", "flush", "ruleset")
        flushed = time.monotonic()
        said = prober.communicate(timeout=40)[0]
        tries = [line.split() for line in said.splitlines()]
        leaks = [
            float(when) - flushed
            for when, address, what in tries if what == "open" and address != INTERNET
        ]  # fmt: skip
        # Once closed it never opens, whatever Incus does meanwhile.
        assert max(leaks, default=0) < 5, leaks
        assert reached(host, instance, *targets) == {INTERNET}
        assert "taos_walls_repaired_total 1" in taos.http.get("/metrics").text
        assert "somebody removed agents' firewall rules" in doctor(host, taos)
        until(lambda: "masquerade" in host.run("nft", "list", "table", "inet", "incus"))
        filters = host.run("nft", "list", "table", "bridge", "incus")
        assert f"in.taos_{instance}.eth0" in filters


def test_doctor_tells_of_missing_rules_and_a_server_that_starts_loads_them(
    host: PrivateHost, taos: Server
) -> None:
    with agents(taos, "hello") as (instance,):
        address_of(host, instance)
        kill(taos)
        host.run("nft", "flush", "ruleset")
        assert HOME in reached(host, instance, HOME)
        assert "agents can reach what is closed to them" in doctor(host, taos)
        taos.start(*host.prefix)
        until(lambda: not reached(host, instance, HOME))
        until(lambda: reached(host, instance, INTERNET) == {INTERNET})
        until(lambda: "agents' bridges are whole" in doctor(host, taos))


def test_an_agent_that_cannot_be_confined_is_unplugged_until_it_can_be(
    host: PrivateHost, taos: Server
) -> None:
    with agents(taos, "hello") as (instance,):
        address_of(host, instance)
        refuse = host.folder / "refuse"
        refuse.touch()
        host.run("/usr/sbin/nft", "flush", "ruleset")
        try:
            until(lambda: "unplugged" in agent(taos, "hello")["reason"])
            assert agent(taos, "hello")["state"] == "unhealthy"
            assert reached(host, instance, gateway_of(host), HOME, INTERNET) == set()
            assert "taos_unplugged_interfaces 1" in taos.http.get("/metrics").text
        finally:
            refuse.unlink()
        host.run("nft", "add", "table", "inet", "other")  # so that rules are looked at now
        until(lambda: agent(taos, "hello")["state"] == "ready")
        until(lambda: reached(host, instance, HOME, INTERNET) == {INTERNET})


def test_a_neighbour_cannot_take_an_agents_address(host: PrivateHost, taos: Server) -> None:
    with agents(taos, "victim", "thief") as (victim, thief):
        address = address_of(host, victim)
        address_of(host, thief)
        mac = host.incus("config", "get", victim, "volatile.eth0.hwaddr").strip()
        entry = (address, "dev", "taos-internet")
        host.run("ip", "neigh", "replace", *entry, "lladdr", mac, "nud", "stale")
        host.run(*host.inside(thief, sys.executable, "-c", CLAIM, address))
        known = host.run("ip", "neigh", "show", *entry)
        assert mac in known, known


def test_an_agent_sends_to_no_neighbour_and_to_the_host_in_its_own_name_only(
    host: PrivateHost, taos: Server
) -> None:
    with agents(taos, "victim", "thief") as (victim, thief):
        address, own = address_of(host, victim), address_of(host, thief)
        at_host = host.start(sys.executable, "-c", HEAR, "taos-internet")
        at_victim = host.start(*host.inside(victim, sys.executable, "-c", HEAR, "eth0"))
        for one in (at_host, at_victim):
            assert one.stdout
            assert one.stdout.readline() == "ready\n"
        host.run(*host.inside(thief, sys.executable, "-c", FORGE, own, address))
        assert at_host.communicate(timeout=20)[0].split() == ["forged-dhcp"]
        assert at_victim.communicate(timeout=20)[0].split() == []


def test_a_hostname_that_leads_nowhere_does_not_keep_a_renamed_agent_from_starting(
    host: PrivateHost, taos: Server
) -> None:
    with agents(taos, "hello") as (instance,):
        for made in ("ln -s /nowhere/x /etc/hostname", "mkdir -p /etc/hostname/x"):
            host.incus("exec", instance, "--", "sh", "-c", f"rm -rf /etc/hostname; {made}")
            host.incus("stop", "--force", instance)
            for old, new in ((instance, "aside"), ("aside", instance)):
                host.incus("rename", old, new)
            job = taos.http.post("/api/agents/hello/start").json()["job"]
            ended = taos.wait(job["id"])
            assert ended["state"] == "succeeded", ended["error"]
