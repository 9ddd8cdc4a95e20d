"""One bridge for each network policy in use, with the ACL that carries the policy out.

The ACL is on the bridge because on a NIC it needs bridge connection tracking, which small
kernels lack.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from tinyagentos import proc
from tinyagentos.host.subnet import find_free_subnet
from tinyagentos.host.wall import Filter, PolicyBridge
from tinyagentos.incus import AclRule, AlreadyExists, Incus, Instance, Network, NotFound
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.network import NetworkPolicy, closed_networks

DESCRIBED = "taOS network policy "
LEASE_KEY, LEASE = "ipv4.dhcp.expiry", "1h"  # what Incus takes when nothing is said


async def read_host_addresses() -> tuple[IPv4Address, ...]:
    """The host's own IPv4 addresses, those of its bridges too."""
    shown = await proc.run("ip", "-json", "-4", "address", within=10)
    return tuple(
        IPv4Address(one["local"])
        for link in json.loads(shown or "[]")
        for one in link.get("addr_info", ())
        if one.get("family") == "inet" and not IPv4Address(one["local"]).is_loopback
    )


def plan_egress(policy: NetworkPolicy, host: tuple[IPv4Address, ...]) -> tuple[AclRule, ...]:
    """The ACL's rules; what none of them names is rejected, all of IPv6 with it."""
    if not policy.internet:
        return ()
    closed = ",".join(map(str, closed_networks(policy, host)))
    return (
        AclRule("reject", destination=closed, description="private networks and the host"),
        AclRule("allow", destination="0.0.0.0/0", description="the internet"),
    )


def bridge_config(policy: NetworkPolicy) -> Mapping[str, str]:
    """What of a policy's bridge is the same on every host."""
    return {
        "ipv4.nat": "true",
        "ipv6.address": "none",
        "security.acls": policy.bridge,
        "security.acls.default.egress.action": "reject",
        "security.acls.default.ingress.action": "reject",
        # Incus lets DNS to the bridge pass before any ACL, and names that are forwarded are a way
        # out. Addresses are given out nevertheless.
        "raw.dnsmasq": "" if policy.internet else "port=0",
    }


async def ensure_policy_bridge(
    policy: NetworkPolicy, incus: Incus, host: tuple[IPv4Address, ...]
) -> PolicyBridge:
    """The policy's bridge; made if it is not there, else brought up to date."""
    name, described = policy.bridge, f"{DESCRIBED}{policy}"
    found = await incus.networks.find(name)
    if found is None:
        subnet = await find_free_subnet()
        address = IPv4Address(subnet[1])
        # The ACL first: a bridge is never there without its rules.
        await _ensure_acl(name, policy, (*host, address), incus, described)
        config = {"ipv4.address": f"{address}/{subnet.prefixlen}", **bridge_config(policy)}
        with contextlib.suppress(AlreadyExists):
            await incus.networks.create(name, config=config, description=described)
        return PolicyBridge(policy, address)
    own = address_of(found)
    await _ensure_acl(name, policy, (*host, own), incus, described)
    wanted = bridge_config(policy)
    if any(found.config.get(key, "") != value for key, value in wanted.items()):
        await incus.networks.update(name, config=wanted)
    return PolicyBridge(policy, own)


def address_of(network: Network) -> IPv4Address:
    """The bridge's own address."""
    return IPv4Address(network.config["ipv4.address"].partition("/")[0])


def policy_bridges(networks: Iterable[Network]) -> tuple[PolicyBridge, ...]:
    """The policies' bridges that are in use."""
    return tuple(
        PolicyBridge(policy, address_of(one))
        for one in networks
        if one.used_by and (policy := policy_of_bridge(one))
    )


def filters_of(instances: Iterable[Instance], bridges: Collection[str]) -> tuple[Filter, ...]:
    """The NICs of running instances whose addresses Incus is to filter on these bridges."""
    return tuple(
        Filter(one.name, name, link)
        for one in instances
        if one.is_running
        for name, device in one.devices.items()
        if device.get("network") in bridges and device.get("security.ipv4_filtering") == "true"
        if (link := one.config.get(f"volatile.{name}.host_name", ""))
    )


async def remake_rules(bridge: str, incus: Incus) -> None:
    """Have Incus make all its firewall rules of the bridge anew.

    It does so whenever a key of the network changes. What the two values mean is the same.
    """
    config = (await incus.networks.get(bridge)).config
    value = "" if config.get(LEASE_KEY) else LEASE
    await incus.networks.update(bridge, config={LEASE_KEY: value})


async def remake_filter(nic: Filter, incus: Incus) -> None:
    """Have Incus make the NIC's filter anew, while the instance runs.

    It does so whenever such a key changes; filtering IPv4 addresses includes the MAC address.
    """
    device = (await incus.instances.get(nic.instance)).devices[nic.nic]
    for value in ("false", "true"):
        changed = {**device, "security.mac_filtering": value}
        await incus.instances.update(nic.instance, devices={nic.nic: changed})


def policy_of_bridge(network: Network) -> NetworkPolicy | None:
    """The policy that the bridge was made for; None for any other network."""
    written = network.description.removeprefix(DESCRIBED)
    try:
        policy = NetworkPolicy.parse(written)
    except InvalidInput:
        return None
    return policy if network.name == policy.bridge else None


async def drop_policy_bridge(policy: NetworkPolicy, incus: Incus) -> bool:
    """Remove bridge and ACL when no instance uses them; whether they are gone."""
    found = await incus.networks.find(policy.bridge)
    if found and found.used_by:
        return False
    with contextlib.suppress(NotFound):
        await incus.networks.delete(policy.bridge)
    with contextlib.suppress(NotFound):
        await incus.networks.delete_acl(policy.bridge)
    return True


async def _ensure_acl(
    name: str, policy: NetworkPolicy, host: tuple[IPv4Address, ...], incus: Incus, described: str
) -> None:
    egress = plan_egress(policy, tuple(sorted(set(host))))
    found = await incus.networks.find_acl(name)
    if found and found.egress == egress:
        return  # writing it again would load every rule anew
    try:
        await incus.networks.create_acl(name, egress=egress, description=described)
    except AlreadyExists:
        await incus.networks.update_acl(name, egress=egress, description=described)
