"""What an agent may reach over the network: the policy, as a person writes it and as networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tinyagentos.model.errors import InvalidInput

PRIVATE = tuple(
    IPv4Network(one)
    for one in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
    )
)
# Nobody's host is there: groups and broadcasts, which the host and its neighbours listen to (names
# and devices at home: mDNS, SSDP), and what networks use within (RFC 6890).
RESERVED = tuple(
    IPv4Network(one) for one in ("0.0.0.0/8", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4")
)
_RULE = "Write `internet`, `none` or `lan:` with networks, such as `lan:192.168.1.0/24`."


@dataclass(frozen=True)
class NetworkPolicy:
    """The internet or nothing, and the private networks that are open besides."""

    internet: bool
    lan: tuple[IPv4Network, ...] = ()

    @classmethod
    def parse(cls, written: str) -> NetworkPolicy:
        """Read `internet`, `none` or `lan:<cidr,...>`; InvalidInput says what is wrong."""
        if written in ("internet", "none"):
            return cls(internet=written == "internet")
        kind, _, listed = written.partition(":")
        try:
            lan = tuple(sorted({IPv4Network(one.strip()) for one in listed.split(",")}))
        except ValueError as error:
            raise InvalidInput(
                f"{written[:80]!r} is no network policy: {error}.", hint=_RULE
            ) from None
        if kind != "lan" or not all(_is_private(one) for one in lan):
            raise InvalidInput(
                f"{written[:80]!r} is no network policy.",
                hint=f"{_RULE} They have to be private IPv4 networks.",
            )
        return cls(internet=True, lan=lan)

    def __str__(self) -> str:
        """As a person writes it."""
        if self.lan:
            return f"lan:{','.join(map(str, self.lan))}"
        return "internet" if self.internet else "none"

    @property
    def bridge(self) -> str:
        """The name of the policy's bridge and ACL; interfaces have 15 characters at most."""
        if self.lan:
            return f"taos-l{hashlib.sha256(str(self).encode()).hexdigest()[:8]}"
        return f"taos-{self}"


def closed_networks(
    policy: NetworkPolicy, host: Iterable[IPv4Address] = ()
) -> tuple[IPv4Network, ...]:
    """What an agent that reaches the internet must not reach.

    Incus lets a rejecting rule win over an allowing one whatever their order, so an open network
    is cut out of what is closed. The host's own addresses stay closed inside an open network.
    """
    closed = list(PRIVATE)
    for hole in policy.lan:
        closed = [part for block in closed for part in _without(block, hole)]
    return tuple(sorted({*closed, *RESERVED, *(IPv4Network(one) for one in host)}))


def _without(block: IPv4Network, hole: IPv4Network) -> tuple[IPv4Network, ...]:
    if block.subnet_of(hole):
        return ()
    return tuple(block.address_exclude(hole)) if hole.subnet_of(block) else (block,)


def _is_private(network: IPv4Network) -> bool:
    return any(network.subnet_of(one) for one in PRIVATE)
