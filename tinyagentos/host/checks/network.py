"""Agents have a bridge with address translation, on a subnet that nothing else uses."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable

from tinyagentos import proc
from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine, unseen
from tinyagentos.incus import AlreadyExists, IncusError
from tinyagentos.model.errors import HostNotReady

Subnet = ipaddress.IPv4Network
CANDIDATES = tuple(Subnet(f"10.{second}.{third}.0/24") for second in (87, 91, 143, 211)
                   for third in (5, 77, 129, 201, *range(10, 70, 10)))  # fmt: skip


def pick_subnet(used: Iterable[Subnet]) -> Subnet:
    """A subnet that overlaps none in use; HostNotReady when all candidates do."""
    taken = [one for one in used if one.prefixlen > 0]
    for candidate in CANDIDATES:
        if not any(candidate.overlaps(one) for one in taken):
            return candidate
    raise HostNotReady(
        "No private subnet is free for the agents' bridge.",
        hint="Make a bridge in Incus yourself and set `bridge` to its name.",
    )


def read_subnets(routes: str, addresses: str) -> tuple[Subnet, ...]:
    """The IPv4 subnets in `ip -json route` and `ip -json address`."""
    found = [str(row.get("dst", "")) for row in json.loads(routes or "[]")]
    for link in json.loads(addresses or "[]"):
        for one in link.get("addr_info", ()):
            if one.get("family") == "inet":
                found.append(f"{one['local']}/{one['prefixlen']}")
    subnets = []
    for text in found:
        try:
            subnets.append(Subnet(text, strict=False))
        except ValueError:
            continue  # `default`, and rows of other kinds
    return tuple(subnets)


async def find_free_subnet() -> Subnet:
    """A subnet that this host does not know yet."""
    routes = await proc.run("ip", "-json", "-4", "route", "show", "table", "all", within=10)
    addresses = await proc.run("ip", "-json", "-4", "address", within=10)
    return pick_subnet(read_subnets(routes, addresses))


async def look(ground: Ground) -> Finding:
    """Whether the bridge is there."""
    name = ground.settings.bridge
    try:
        async with ground.incus("default") as incus:
            found = await incus.networks.find(name)
    except IncusError as error:
        return unseen(error, plan=f"make the bridge {name}")
    if found is None:
        return broken(f"there is no bridge {name}", plan=f"make the bridge {name}")
    if not found.managed:
        return broken(
            f"{name} is a bridge that Incus does not manage",
            hint="Set `bridge` to another name, then run `taos setup`.",
        )
    return fine(f"bridge {name} ({found.config.get('ipv4.address', 'no IPv4')})")


async def fix(ground: Ground, _: Report) -> None:
    """Make the bridge on a free subnet."""
    subnet = await find_free_subnet()
    config = {
        "ipv4.address": f"{subnet[1]}/{subnet.prefixlen}",
        "ipv4.nat": "true",
        "ipv6.address": "none",
    }
    async with ground.incus("default") as incus:
        try:
            await incus.networks.create(
                ground.settings.bridge, config=config, description="Agents of taOS"
            )
        except AlreadyExists:
            return


CHECK = Check("network", "agents reach the internet through it, and not each other", look, fix)
