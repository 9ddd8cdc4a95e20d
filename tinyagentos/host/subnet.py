"""A private subnet for a bridge that nothing on this host uses."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable

from tinyagentos import proc
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
