"""The firewall rules of agents' bridges: what they are, and what happens when they are missing."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.fakes.fake_incus import FakeIncus
from tinyagentos.host.incus_rules import UNFILTERED, IncusRules
from tinyagentos.host.wall import (
    HOOKS,
    PRIORITY,
    Chain,
    Filter,
    PolicyBridge,
    Ruleset,
    has_incus_rules,
    mark_of,
    missing_rules,
    nic_device,
    parse_ruleset,
    plan_rules,
    render_wall,
    unfiltered,
)
from tinyagentos.host.walls import Firewall, Walls, read_record
from tinyagentos.incus import Incus, InstanceRequest
from tinyagentos.model.errors import CommandFailed, HostNotReady
from tinyagentos.model.network import NetworkPolicy

OWN, HOST = IPv4Address("10.87.5.1"), IPv4Address("192.168.7.7")
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
BRIDGE = PolicyBridge(NetworkPolicy.parse("internet"), OWN)
RULES = plan_rules(BRIDGE, (HOST,))


def loaded(rules: dict[str, tuple[str, ...]]) -> dict[str, Chain]:
    """The chains as the kernel has them after loading the rules."""
    return {
        hook: Chain(hook, PRIORITY, "accept", tuple(map(mark_of, several)))
        for hook, several in rules.items()
    }


class FakeFirewall(Firewall):
    """A kernel in memory; broken: nft refuses."""

    is_ours = True

    def __init__(self) -> None:
        self.seen = Ruleset()
        self.broken = ""
        self.loads = 0
        self.forgets = False
        self.up: dict[str, bool] = {BRIDGE.name: True}
        self.hosts = [OWN, HOST]

    async def look(self, bridges: Collection[str]) -> Ruleset:
        if self.broken:
            raise CommandFailed(self.broken)
        return self.seen

    async def load(self, rules: str) -> None:
        self.loads += 1
        if self.broken:
            raise CommandFailed(self.broken)
        if not self.forgets:
            self.seen = replace(
                self.seen, walls={BRIDGE.name: loaded(dict(plan_rules(BRIDGE, self.hosts)))}
            )

    def is_up(self, link: str) -> bool | None:
        return self.up.get(link)

    async def switch(self, link: str, *, on: bool) -> None:
        self.up[link] = on

    async def addresses(self) -> tuple[IPv4Address, ...]:
        return tuple(self.hosts)


@pytest.fixture
def firewall() -> FakeFirewall:
    return FakeFirewall()


@pytest.fixture
def walls(firewall: FakeFirewall, tmp_path: Path) -> Walls:
    return Walls(firewall, firewall.addresses, lambda: NOW, tmp_path / "walls.json")


def test_nothing_is_missing_of_what_was_loaded() -> None:
    assert missing_rules(RULES, loaded(dict(RULES))) == ()


def test_a_table_that_is_gone_is_missing() -> None:
    assert missing_rules(RULES, {}) == ("the whole table is gone",)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_rule_is_missed_in_every_chain(hook: str) -> None:
    for at in range(len(RULES[hook])):
        seen = loaded(dict(RULES))
        marks = seen[hook].marks
        seen[hook] = replace(seen[hook], marks=(*marks[:at], *marks[at + 1 :]))
        assert missing_rules(RULES, seen) == (f"the rules for {hook}: 1 of {len(marks)} are gone",)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_foreign_rule_another_order_and_another_hook_are_noticed(hook: str) -> None:
    whole = loaded(dict(RULES))
    marks = whole[hook].marks
    for chain in (
        replace(whole[hook], marks=("", *marks)),
        replace(whole[hook], marks=tuple(reversed(marks))),
        replace(whole[hook], hook=""),
        replace(whole[hook], priority=5),
    ):
        assert missing_rules(RULES, {**whole, hook: chain})
    del whole[hook]
    assert missing_rules(RULES, whole) == (f"the chain for {hook} is gone",)


def test_what_an_agent_with_internet_reaches_is_decided_before_connections() -> None:
    first, *_ = RULES["forward"]
    assert "ip daddr" in first
    assert first.endswith("reject")
    assert "192.168.0.0/16" in first
    assert not [rule for rule in RULES["input"] if "ct state" in rule]
    assert [rule for rule in RULES["input"] if "dport 53" in rule and str(OWN) in rule]


def test_an_agent_without_network_gets_an_address_and_nothing_else() -> None:
    rules = plan_rules(PolicyBridge(NetworkPolicy.parse("none"), OWN), (HOST,))
    assert rules["forward"][0] == 'iifname "taos-none" reject'
    assert not [rule for rule in rules["input"] if "dport 53" in rule]
    assert rules["input"][0] == 'iifname "taos-none" udp dport 67 accept'


def test_the_hosts_addresses_are_closed_inside_an_open_network() -> None:
    policy = NetworkPolicy.parse("lan:192.168.7.0/24")
    first = plan_rules(PolicyBridge(policy, OWN), (HOST,))["forward"][0]
    assert "192.168.7.7/32" in first
    assert "192.168.7.0/24" not in first


def test_a_wall_replaces_the_one_before_in_one_transaction() -> None:
    lines = render_wall("taos-internet", RULES).splitlines()
    assert lines[:3] == [
        "table inet taos-internet {}",
        "delete table inet taos-internet",
        "table inet taos-internet {",
    ]


def entry(kind: str, **fields: object) -> dict[str, object]:
    return {kind: {"family": "inet", "table": "incus", **fields}}


def test_incus_rules_are_whole_only_with_their_jumps() -> None:
    meta = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "taos-internet"}}
    jump = {"jump": {"target": "acl.taos-internet"}}
    kinds = ("pstrt", "fwd", "in", "out", "acl", "aclin", "aclout", "aclfwd")
    whole = [
        entry("rule", chain=f"{kind}.taos-internet", expr=[meta, jump]) for kind in kinds
    ]  # fmt: skip
    said = json.dumps({"nftables": whole})
    assert has_incus_rules("taos-internet", parse_ruleset(said), acl=True)
    for at in range(len(whole)):
        said = json.dumps({"nftables": [*whole[:at], *whole[at + 1 :]]})
        assert not has_incus_rules("taos-internet", parse_ruleset(said), acl=True)
    plain = [entry("rule", chain=f"{kind}.taos-internet", expr=[meta]) for kind in kinds]
    said = json.dumps({"nftables": plain})
    assert not has_incus_rules("taos-internet", parse_ruleset(said), acl=True)
    assert has_incus_rules("taos-internet", parse_ruleset(said), acl=False)


def test_a_nic_is_unfiltered_without_rules_for_both_ways() -> None:
    nic = Filter("a", "eth0", "veth1")
    chains = {
        f"{hook}.a": Chain(hook, interfaces=frozenset({"veth1"})) for hook in ("input", "forward")
    }
    assert unfiltered([nic], Ruleset(filters=chains)) == ()
    assert unfiltered([nic], Ruleset(filters={"input.a": chains["input.a"]})) == (nic,)
    assert unfiltered([replace(nic, link="veth2")], Ruleset(filters=chains))


async def test_removed_rules_come_back_and_are_told_of_once(
    walls: Walls, firewall: FakeFirewall, tmp_path: Path
) -> None:
    await walls.ensure(BRIDGE)
    await walls.keep()
    assert (firewall.loads, walls.record.repaired) == (1, 0)
    firewall.seen = Ruleset()
    await walls.keep()
    await walls.keep()
    assert (firewall.loads, walls.record.repaired) == (2, 1)
    assert read_record(tmp_path / "walls.json") == walls.record
    assert walls.record.at == NOW


async def test_another_address_of_the_host_is_no_removal(
    walls: Walls, firewall: FakeFirewall
) -> None:
    await walls.ensure(BRIDGE)
    firewall.hosts.append(IPv4Address("203.0.113.9"))
    await walls.ensure(BRIDGE)
    assert (firewall.loads, walls.record.repaired) == (2, 0)


@pytest.mark.parametrize("fault", ["nft refuses", "rules do not stay"])
async def test_a_bridge_without_rules_is_switched_off_until_they_are_there(
    walls: Walls, firewall: FakeFirewall, fault: str
) -> None:
    await walls.ensure(BRIDGE)
    firewall.seen = Ruleset()
    firewall.broken = fault if fault == "nft refuses" else ""
    firewall.forgets = True
    await walls.keep()
    assert not firewall.up[BRIDGE.name]
    assert "firewall rules" in walls.record.unplugged[BRIDGE.name]
    firewall.up[BRIDGE.name] = True  # as Incus does
    with pytest.raises(HostNotReady, match="cannot be confined"):
        await walls.ensure(BRIDGE)
    assert not firewall.up[BRIDGE.name]
    firewall.broken, firewall.forgets = "", False
    await walls.keep()
    assert firewall.up[BRIDGE.name]
    assert walls.record.unplugged == {}


async def test_a_bridge_of_another_network_namespace_is_left_alone(
    walls: Walls, firewall: FakeFirewall
) -> None:
    firewall.hosts = [HOST]
    await walls.ensure(BRIDGE)
    assert await walls.keep() is None
    assert firewall.loads == 0


async def test_a_nic_whose_filter_incus_does_not_make_is_unplugged(
    walls: Walls, firewall: FakeFirewall, tmp_path: Path
) -> None:
    async with (
        FakeIncus(tmp_path / "incus.sock") as fake,
        Incus.unix(fake.socket, project="taos") as incus,
    ):
        fake.add_image("taos", "c" * 64)
        fake.networks[BRIDGE.name] = fake.networks["taosbr0"]
        request = InstanceRequest(
            name="a", image="c" * 64, config={"volatile.eth0.host_name": "veth1"},
            devices={"eth0": nic_device("eth0", BRIDGE.name)},
        )  # fmt: skip
        instance = await incus.instances.create(request, start=True)
        firewall.up["veth1"] = True
        await walls.ensure(BRIDGE)
        rules = IncusRules(incus, walls, "taosbr0")
        await rules.keep([instance])
        assert walls.record.unplugged == {"veth1": UNFILTERED}
        assert not firewall.up["veth1"]
        calls = len(fake.calls)
        chains = {
            hook: Chain(hook, interfaces=frozenset({"veth1"})) for hook in ("input", "forward")
        }
        firewall.seen = replace(firewall.seen, filters=chains)
        await rules.keep([instance])
        assert firewall.up["veth1"]
        assert walls.record.unplugged == {}
        assert len(fake.calls) == calls  # Incus is not asked again at once
        device = (await incus.instances.get("a")).devices["eth0"]
        assert device == nic_device("eth0", BRIDGE.name)
