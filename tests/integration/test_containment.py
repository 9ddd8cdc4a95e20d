"""Network policies with real packets: what an instance on a policy's bridge reaches, and what not.

The internet and the neighbour are network namespaces behind the host; the addresses of the first
are of a documentation range (RFC 5737).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
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
from tinyagentos.incus import InstanceRequest
from tinyagentos.model.network import NetworkPolicy

pytestmark = pytest.mark.incus

# Third octets of its own for each run: other suites may use this host at the same time.
THIRD = secrets.randbelow(200) + 20
INTERNET = "203.0.113"
LAN = f"10.199.{THIRD}"
PORT = 18080


@contextlib.asynccontextmanager
async def neighbour(prefix: str) -> AsyncIterator[None]:
    """A host at `prefix`.10 that serves HTTP; this host is `prefix`.1 to it."""
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
        async with served("ip", "netns", "exec", name):
            yield
    finally:
        await ip("ip", "netns", "delete", name)


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
    bridge = await ensure_policy_bridge(policy, incus, await read_host_addresses())
    try:
        assert await ensure_policy_bridge(policy, incus, await read_host_addresses()) == bridge
        address = (await incus.networks.get(bridge)).config["ipv4.address"]
        prefix = address.partition("/")[0].rpartition(".")[0]
        for last in ("201", "202"):
            nic = {
                "type": "nic",
                "name": "eth0",
                "network": bridge,
                "security.port_isolation": "true",
            }
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


async def reaches(backend: Backend, address: str) -> bool:
    """Whether the first agent gets an answer from the address."""
    # Debian's static busybox ends in a segmentation fault in `wget`; `nc` does without names.
    argv = ("busybox", "nc", "-w", "3", address, str(PORT))
    ask = b"GET / HTTP/1.0\r\n\r\n"
    result = await backend.incus.instances.exec("a201", argv, stdin=ask, within=20)
    return result.stdout.startswith(b"HTTP/1.")


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
    async with neighbour(INTERNET), neighbour(LAN), served():
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
    assert seen == {
        "internet": internet,
        "lan": lan,
        "itself": True,
        "other agent": False,
        "host": [],
    }
