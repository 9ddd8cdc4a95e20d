"""Network policies with real packets: what an instance on a policy's bridge reaches, and what not.

The internet and the neighbour are network namespaces behind the host; the addresses of the first
are of a documentation range (RFC 5737).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.fixtures import Backend
from tests.fakes.tiny_image import TinyImage
from tinyagentos import proc
from tinyagentos.host.policy import (
    drop_policy_bridge,
    ensure_policy_bridge,
    read_host_addresses,
)
from tinyagentos.host.wall import nic_device
from tinyagentos.host.walls import Firewall, Walls
from tinyagentos.incus import InstanceRequest
from tinyagentos.model.network import NetworkPolicy

pytestmark = pytest.mark.incus

# Third octets of its own for each run: other suites may use this host at the same time.
THIRD = secrets.randbelow(200) + 20
INTERNET = "203.0.113"
LAN = f"10.199.{THIRD}"
PORT = 18080


@contextlib.asynccontextmanager
async def neighbour(prefix: str) -> AsyncIterator[Received]:
    """A host at `prefix`.10 that serves HTTP and hears datagrams; this host is `prefix`.1 to it."""
    name = f"tt{secrets.token_hex(3)}"
    inside = ("ip", "-n", name)
    await ip("ip", "netns", "add", name)
    try:
        await ip("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        await ip("ip", "address", "add", f"{prefix}.1/24", "dev", name)
        await ip("ip", "link", "set", name, "up")
        await ip(*inside, "address", "add", f"{prefix}.10/24", "dev", "eth0")
        await ip(*inside, "link", "set", "eth0", "up")
        await ip(*inside, "route", "add", "default", "via", f"{prefix}.1")
        inside_it = ("ip", "netns", "exec", name)
        async with (
            served(*inside_it),
            listening(*inside_it, ports=str(PORT), interface="eth0") as heard,
        ):
            yield heard
    finally:
        await ip("ip", "netns", "delete", name)


# What listens for datagrams at these ports, in IPv4 and IPv6 and in these groups on an interface.
MDNS, SSDP = "224.0.0.251", "239.255.255.250"
RECEIVE = """
import select, socket, struct, sys
ports, interface, groups = map(int, sys.argv[1].split(",")), sys.argv[2], sys.argv[3:]
sockets = []
for port in ports:
    for family in (socket.AF_INET, socket.AF_INET6):
        one = socket.socket(family, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(("", port))
        for group in groups:
            if family == socket.AF_INET and ":" not in group:
                index = struct.pack("4s4si", socket.inet_aton(group), bytes(4),
                                    socket.if_nametoindex(interface))
                one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, index)
            elif family == socket.AF_INET6 and ":" in group:
                index = struct.pack("16si", socket.inet_pton(family, group),
                                    socket.if_nametoindex(interface))
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, index)
        sockets.append(one)
print("ready", flush=True)
while True:
    for one in select.select(sockets, [], [])[0]:
        print(one.recv(999).decode(), flush=True)
"""
# Sends each of `what|address|port` its own name a few times; the interface is the agent's.
SEND = """
import socket, sys, time
for _ in range(3):
    for probe in sys.argv[1:]:
        what, address, port = probe.split("|")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        one = socket.socket(family, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            # Once more to an address that refused: what was said there first counts.
            to = socket.getaddrinfo(address, int(port), family, socket.SOCK_DGRAM)[0][4]
            one.sendto(what.encode(), to)
        except OSError:
            pass
        one.close()
    time.sleep(0.2)
"""


class Received:
    """The names of the datagrams that arrived."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    async def gather(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            self.names.add(line.decode().strip())


@contextlib.asynccontextmanager
async def listening(*before: str, ports: str, interface: str, groups: tuple[str, ...] = ()) -> (
    AsyncIterator[Received]
):  # fmt: skip
    """Something that hears datagrams, here or in a namespace."""
    argv = (sys.executable, "-c", RECEIVE, ports, interface, *groups)
    server = await asyncio.create_subprocess_exec(*before, *argv, stdout=asyncio.subprocess.PIPE)
    heard = Received()
    assert server.stdout
    try:
        assert b"ready" in await asyncio.wait_for(server.stdout.readline(), 20)
        gathering = asyncio.create_task(heard.gather(server.stdout))
        yield heard
    finally:
        server.kill()
        await server.wait()
    await gathering


@contextlib.asynccontextmanager
async def served(*before: str) -> AsyncIterator[None]:
    """Something that answers on all addresses, here or in a namespace."""
    folder = tempfile.mkdtemp()  # empty: it is served on every address of this host
    argv = (sys.executable, "-u", "-m", "http.server", str(PORT), "--directory", folder)
    server = await asyncio.create_subprocess_exec(
        *before, *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert server.stdout
        assert b"Serving" in await asyncio.wait_for(server.stdout.readline(), 20)
        yield
    finally:
        server.kill()
        await server.wait()
        Path(folder).rmdir()


async def ip(*argv: str) -> None:
    await proc.run(*argv, within=10)


@contextlib.asynccontextmanager
async def agents(backend: Backend, policy: NetworkPolicy, image: str) -> AsyncIterator[str]:
    """Two instances on the policy's bridge, at .201 and .202; yields the bridge's prefix."""
    incus = backend.incus
    others = await incus.networks.find(policy.bridge)  # agents of this host may be on it
    made = await ensure_policy_bridge(policy, incus, await read_host_addresses())
    walls = Walls(Firewall(), read_host_addresses, lambda: datetime.now(UTC))
    try:
        assert await ensure_policy_bridge(policy, incus, await read_host_addresses()) == made
        await walls.ensure(made)
        bridge = made.name
        address = (await incus.networks.get(bridge)).config["ipv4.address"]
        prefix = address.partition("/")[0].rpartition(".")[0]
        for last in ("201", "202"):
            nic = {**nic_device("eth0", bridge), "ipv4.address": f"{prefix}.{last}"}
            request = InstanceRequest(name=f"a{last}", image=image, devices={"eth0": nic})
            await incus.instances.create(request, start=True)
            for line in (
                f"addr add {prefix}.{last}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {prefix}.1",
            ):
                result = await incus.instances.exec(f"a{last}", ("busybox", "ip", *line.split()))
                assert result.exit_code == 0, result.stderr
        yield prefix
    finally:
        for one in await incus.instances.list():
            await incus.instances.delete(one.name, force=True)
        assert await drop_policy_bridge(policy, incus) or others
        if not others:
            await walls.forget(policy.bridge)


async def reaches(backend: Backend, address: str) -> bool:
    """Whether the first agent gets an answer from the address."""
    # Debian's static busybox ends in a segmentation fault in `wget`; `nc` does without names.
    argv = ("busybox", "nc", "-w", "3", address, str(PORT))
    ask = b"GET / HTTP/1.0\r\n\r\n"
    result = await backend.incus.instances.exec("a201", argv, stdin=ask, within=20)
    return result.stdout.startswith(b"HTTP/1.")


async def datagrams(backend: Backend, bridge: str, host: list[str]) -> set[str]:
    """The datagrams of the first agent that this host heard, of all that it could send."""
    shown = json.loads(await proc.run("ip", "-json", "address", "show", "dev", bridge, within=10))
    locals6 = [one["local"] for one in shown[0]["addr_info"] if one["family"] == "inet6"]
    probes = [
        f"internet|{INTERNET}.10|{PORT}", f"lan|{LAN}.10|{PORT}",
        f"mDNS|{MDNS}|5353", f"SSDP|{SSDP}|1900", "mDNS of IPv6|ff02::fb%eth0|5353",
        "everybody|255.255.255.255|5353",
        *(f"{one} at {port}|{one}|{port}" for one in host for port in (PORT, 5353, 1900)),
        *(f"{one} at {port}|{one}%eth0|{port}" for one in locals6 for port in (PORT, 5353)),
    ]  # fmt: skip
    pid = (await backend.incus.instances.state("a201")).pid
    send = ("nsenter", "--target", str(pid), "--net", sys.executable, "-c", SEND)
    groups = (MDNS, SSDP, "ff02::fb")
    async with listening(ports=f"{PORT},5353,1900", interface=bridge, groups=groups) as heard:
        await proc.run(*send, *probes, within=30)
        await asyncio.sleep(0.3)
    return heard.names


# A question for dnsmasq itself (RFC 4892), so that no name server outside is needed; then its port.
ASK_NAMES = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(2)
try:
    one.connect((sys.argv[1], 53))
    one.send(b"\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\7version\\4bind\\0\\0\\x10\\0\\3")
    print("datagram" if one.recv(999) else "")
except OSError:
    pass
try:
    socket.create_connection((sys.argv[1], 53), 2)
    print("connection")
except OSError:
    pass
"""


async def name_server(backend: Backend, prefix: str) -> set[str]:
    """How the first agent reaches a name server at its bridge."""
    pid = (await backend.incus.instances.state("a201")).pid
    ask = ("nsenter", "--target", str(pid), "--net", sys.executable, "-c", ASK_NAMES)
    return set((await proc.run(*ask, f"{prefix}.1", within=20)).split())


async def has_lease(backend: Backend) -> bool:
    """Whether the first agent is given an address."""
    argv = ("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-t", "5", "-T", "1", "-s", "/bin/true")
    return (await backend.incus.instances.exec("a201", argv, within=30)).exit_code == 0


@pytest.mark.parametrize(
    ("written", "internet", "lan"),
    [
        ("internet", True, False),
        ("none", False, False),
        (f"lan:{LAN}.0/24", True, True),
    ],
    ids=["internet", "none", "lan"],
)
async def test_an_agent_reaches_what_its_policy_opens_and_nothing_else(
    real_incus: Backend, tiny_image: TinyImage, written: str, internet: bool, lan: bool
) -> None:
    policy = NetworkPolicy.parse(written)
    await real_incus.incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
    async with neighbour(INTERNET) as far, neighbour(LAN) as near, served():
        host = [str(one) for one in await read_host_addresses()]
        async with agents(real_incus, policy, tiny_image.fingerprint) as prefix:
            httpd = ("busybox", "httpd", "-p", str(PORT), "-h", "/www")
            for one in ("a201", "a202"):
                await real_incus.incus.instances.exec(one, ("busybox", "mkdir", "-p", "/www"))
                page = ("busybox", "touch", "/www/index.html")
                await real_incus.incus.instances.exec(one, page)
                assert (await real_incus.incus.instances.exec(one, httpd)).exit_code == 0
            seen = {
                "internet": await reaches(real_incus, f"{INTERNET}.10"),
                "lan": await reaches(real_incus, f"{LAN}.10"),
                "itself": await reaches(real_incus, f"{prefix}.201"),
                "other agent": await reaches(real_incus, f"{prefix}.202"),
                "host": [one for one in (*host, f"{prefix}.1") if await reaches(real_incus, one)],
            }
            heard = await datagrams(real_incus, policy.bridge, [*host, f"{prefix}.1"])
            await asyncio.sleep(0.2)
            names = await name_server(real_incus, prefix)
            leased = await has_lease(real_incus)
    assert leased
    assert names == ({"datagram", "connection"} if internet else set())
    assert heard == set()
    assert far.names == ({"internet"} if internet else set())
    assert near.names == ({"lan"} if lan else set())
    assert seen == {
        "internet": internet,
        "lan": lan,
        "itself": True,
        "other agent": False,
        "host": [],
    }
