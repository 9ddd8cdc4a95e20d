"""The firewall rules of a policy's bridge, in a table of its own, and what of them is missing.

Only plans here; walls.py loads them. The table has the bridge's name. Each rule carries a checksum
of itself as its comment, so the rules that the kernel has are compared with those that a policy
demands without reading nft's words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, collapse_addresses

from tinyagentos.model.network import NetworkPolicy, closed_networks

# The rules of a table by hook, in nft's language.
Rules = Mapping[str, tuple[str, ...]]
FAMILY = "inet"
INCUS, FILTERS = ("inet", "incus"), ("bridge", "incus")
# Before Incus's chains. In nft a verdict `accept` ends one chain only, a `reject` ends all.
PRIORITY = -10
HOOKS = ("input", "forward", "output")
ERRORS = "icmp type { destination-unreachable, time-exceeded, parameter-problem }"
# What Incus makes for any bridge, and for one with address translation and an ACL.
PLAIN_CHAINS = ("fwd", "in", "out")
ACL_CHAINS = ("pstrt", "acl", "aclin", "aclout", "aclfwd")
JUMPING = ("aclin", "aclout", "aclfwd")


@dataclass(frozen=True)
class PolicyBridge:
    """A policy's bridge with its own address."""

    policy: NetworkPolicy
    address: IPv4Address

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.policy.bridge


@dataclass(frozen=True)
class Chain:
    """A chain as the kernel has it. marks: its rules' comments; jumps: chains it jumps to;
    interfaces: those whose incoming packets its rules look at. Only base chains have a hook.
    """

    hook: str = ""
    priority: int = 0
    policy: str = ""
    marks: tuple[str, ...] = ()
    jumps: frozenset[str] = frozenset()
    interfaces: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Ruleset:
    """What the kernel has: each bridge's chains, those of `inet incus` and of `bridge incus`."""

    walls: Mapping[str, Mapping[str, Chain]] = field(default_factory=dict)
    incus: Mapping[str, Chain] = field(default_factory=dict)
    filters: Mapping[str, Chain] = field(default_factory=dict)


@dataclass(frozen=True)
class Filter:
    """A NIC whose sender's addresses Incus filters. link: its interface on the host."""

    instance: str
    nic: str
    link: str


def nic_device(name: str, network: str) -> Mapping[str, str]:
    """A NIC on the bridge, apart from all others there, that can send as nobody but itself.

    A bridge without IPv6 lets none of it pass then. Incus gives the NIC a fixed address.
    """
    return {
        "type": "nic",
        "name": name,
        "network": network,
        "security.port_isolation": "true",
        "security.mac_filtering": "true",
        "security.ipv4_filtering": "true",
        "security.ipv6_filtering": "true",
    }


def plan_rules(bridge: PolicyBridge, host: Collection[IPv4Address]) -> Rules:
    """The bridge's rules by hook; what passes them all was allowed by one. host: its addresses.

    Packets from an agent are judged without regard to connections: one that it opened while there
    were no rules ends when they are back.
    """
    source, sink = f'iifname "{bridge.name}"', f'oifname "{bridge.name}"'
    names: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    if bridge.policy.internet:
        networks = closed_networks(bridge.policy, (*host, bridge.address))
        closed = ", ".join(map(str, collapse_addresses(networks)))
        opened = (
            f"{source} ip daddr {{ {closed} }} reject",
            f"{source} meta nfproto ipv4 accept",
        )
        names = tuple(
            f"{source} ip daddr {bridge.address} {protocol} dport 53 accept"
            for protocol in ("udp", "tcp")
        )
    return {
        "input": (
            f"{source} udp dport 67 accept",
            *names,
            f"{source} {ERRORS} accept",
            f"{source} reject",
        ),
        "forward": (
            *opened,
            f"{source} reject",
            f"{sink} ct state established,related accept",
            f"{sink} reject",
        ),
        "output": (
            f"{sink} udp sport 67 accept",
            f"{sink} ct state established,related accept",
            f"{sink} {ERRORS} accept",
            f"{sink} reject",
        ),
    }


def render_wall(bridge: str, wall: Rules) -> str:
    """The bridge's table as one transaction of nft: a packet meets the old one or the new one."""
    table = f"table {FAMILY} {bridge}"
    lines = [f"{table} {{}}", f"delete {table}", f"{table} {{"]
    for hook, rules in wall.items():
        lines += [f"chain {hook} {{ type filter hook {hook} priority {PRIORITY}; policy accept;"]
        lines += [f'{rule} comment "{mark_of(rule)}"' for rule in rules]
        lines += ["}"]
    return "\n".join([*lines, "}", ""])


def mark_of(rule: str) -> str:
    """The comment by which the rule is known again."""
    return hashlib.sha256(rule.encode()).hexdigest()[:16]


def missing_rules(wall: Rules, seen: Mapping[str, Chain]) -> tuple[str, ...]:
    """What the kernel's table lacks of the planned one, a clause each; empty when nothing."""
    if not seen:
        return ("the whole table is gone",)
    lacking = []
    for hook, rules in wall.items():
        found = seen.get(hook)
        if found is None:
            lacking.append(f"the chain for {hook} is gone")
        elif (found.hook, found.priority, found.policy) != (hook, PRIORITY, "accept"):
            lacking.append(f"the chain for {hook} is another one")
        elif found.marks != (marks := tuple(map(mark_of, rules))):
            gone = len(marks) - sum(mark in found.marks for mark in marks)
            said = f"{gone} of {len(marks)} are gone" if gone else "they are not as they must be"
            lacking.append(f"the rules for {hook}: {said}")
    return tuple(lacking)


def has_incus_rules(bridge: str, seen: Ruleset, *, acl: bool) -> bool:
    """Whether Incus's own rules of the bridge are there; acl: it has one."""
    kinds = (*PLAIN_CHAINS, *(ACL_CHAINS if acl else ()))
    found = {kind: seen.incus.get(f"{kind}.{bridge}", Chain()) for kind in kinds}
    jumping = all(f"acl.{bridge}" in found[kind].jumps for kind in JUMPING) if acl else True
    return jumping and all(chain.marks for chain in found.values())


def unfiltered(nics: Iterable[Filter], seen: Ruleset) -> tuple[Filter, ...]:
    """The NICs from which packets with any sender's address would pass."""
    known = {
        hook: {
            link
            for chain in seen.filters.values() if chain.hook == hook for link in chain.interfaces
        }
        for hook in ("input", "forward")
    }  # fmt: skip
    return tuple(nic for nic in nics if not all(nic.link in links for links in known.values()))


def parse_ruleset(shown: str) -> Ruleset:
    """What `nft -j` said of these tables, one document a line."""
    tables: dict[tuple[str, str], dict[str, Chain]] = {}
    for document in filter(None, shown.splitlines()):
        for entry in json.loads(document).get("nftables", ()):
            if chain := entry.get("chain"):
                tables.setdefault(_table(chain), {})[chain["name"]] = Chain(
                    chain.get("hook", ""), chain.get("prio", 0), chain.get("policy", "")
                )
            elif rule := entry.get("rule"):
                chains = tables.setdefault(_table(rule), {})
                chains[rule["chain"]] = _with_rule(chains.get(rule["chain"], Chain()), rule)
    incus, filters = tables.pop(INCUS, {}), tables.pop(FILTERS, {})
    walls = {name: chains for (family, name), chains in tables.items() if family == FAMILY}
    return Ruleset(walls, incus, filters)


def _table(entry: Mapping[str, str]) -> tuple[str, str]:
    return entry["family"], entry["table"]


def _with_rule(chain: Chain, rule: Mapping[str, object]) -> Chain:
    parts = rule.get("expr")
    jumps, interfaces = set(chain.jumps), set(chain.interfaces)
    for part in parts if isinstance(parts, list) else ():
        if "jump" in part:
            jumps.add(part["jump"]["target"])
        match = part.get("match", {})
        if match.get("left") == {"meta": {"key": "iifname"}} and isinstance(match["right"], str):
            interfaces.add(match["right"])
    return Chain(
        chain.hook,
        chain.priority,
        chain.policy,
        (*chain.marks, str(rule.get("comment", ""))),
        frozenset(jumps),
        frozenset(interfaces),
    )
