"""An agent's network: its policy, the bridge that carries it out, and changing both."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from ipaddress import IPv4Address

from tinyagentos.agents.host import Host
from tinyagentos.agents.order import AGENT_KEY, NETWORK_KEY
from tinyagentos.agents.roles import previous_name
from tinyagentos.host.policy import (
    drop_policy_bridge,
    ensure_policy_bridge,
    policy_of_bridge,
)
from tinyagentos.host.wall import nic_device
from tinyagentos.incus import Instance, NotFound
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import HostNotReady, InvalidInput
from tinyagentos.model.network import NetworkPolicy

NETWORK = "network"
PREPARE, MOVE = "prepare network", "move agent"
STEPS = (PREPARE, MOVE)
NIC = "eth0"


def read_policy(config: Mapping[str, str]) -> NetworkPolicy:
    """The policy in an instance's config; one that is missing or cannot be read is `internet`."""
    try:
        return NetworkPolicy.parse(config.get(NETWORK_KEY, ""))
    except InvalidInput:
        return NetworkPolicy(internet=True)


def nic_of(policy: NetworkPolicy) -> Mapping[str, str]:
    """The network interface on the policy's bridge."""
    return nic_device(NIC, policy.bridge)


def why_unplugged(instance: Instance, unplugged: Mapping[str, str]) -> str:
    """Why nothing passes the agent's network, or nothing; unplugged: reasons by interface."""
    bridge = instance.devices.get(NIC, {}).get("network", "")
    link = instance.config.get(f"volatile.{NIC}.host_name", "")
    why = unplugged.get(bridge) or unplugged.get(link)
    return f"its network is unplugged: {why}" if why else ""


async def ensure_bridge(policy: NetworkPolicy, host: Host) -> None:
    """Have the policy's bridge, with rules that know the host's addresses of now.

    HostNotReady when the rules cannot be loaded.
    """
    bridge = await ensure_policy_bridge(policy, host.incus, await host.addresses())
    await host.walls.ensure(bridge)


async def ensure_nic(name: str, host: Host, policy: NetworkPolicy | None = None) -> None:
    """Have the instance on its policy's bridge, running or not; policy: the one to have from now.

    A running one gets its new address by DHCP within a second or two.
    """
    found = await host.incus.instances.get(name)
    wanted = policy or read_policy(found.config)
    await ensure_bridge(wanted, host)
    device = nic_of(wanted)
    if found.devices.get(NIC) != device or found.config.get(NETWORK_KEY) != str(wanted):
        await host.incus.instances.update(
            name, config={NETWORK_KEY: str(wanted)}, devices={NIC: device}
        )


async def change_network(job: JobContext, host: Host) -> None:
    """Move the agent to the policy's bridge, as it runs."""
    job.plan_steps(*STEPS)
    policy = NetworkPolicy.parse(job.params["policy"])
    with job.step(PREPARE):
        await ensure_bridge(policy, host)
    with job.step(MOVE):
        await _move(job.params["instance"], policy, host)


async def undo_change(job: JobContext, host: Host) -> None:
    """Back to the policy from before."""
    with contextlib.suppress(NotFound):
        await _move(job.params["instance"], NetworkPolicy.parse(job.params["previous"]), host)


async def _move(name: str, policy: NetworkPolicy, host: Host) -> None:
    await ensure_nic(name, host, policy)
    # A root that an undone upgrade would return to must not bring an older policy back.
    if await host.incus.instances.find(previous_name(name)):
        await ensure_nic(previous_name(name), host, policy)


async def refresh_bridges(host: Host) -> None:
    """Bridges in use get rules that know the host's addresses of now."""
    for network in await host.incus.networks.list():
        policy = policy_of_bridge(network)
        if policy and network.used_by:
            # Of one whose rules cannot be loaded agents tell; the others are looked after.
            with contextlib.suppress(HostNotReady):
                await ensure_bridge(policy, host)


async def refresh_nics(host: Host) -> None:
    """Agents from before addresses were filtered get that, as they run."""
    at_work = {job.subject for job in host.runner.list_active()}
    for one in await host.incus.instances.list():
        policy = read_policy(one.config)
        nic = one.devices.get(NIC, {})
        is_older = nic.get("network") == policy.bridge and nic != nic_of(policy)
        if is_older and f"agent:{one.config.get(AGENT_KEY)}" not in at_work:
            await ensure_nic(one.name, host)


async def refresh_when_changed(
    known: tuple[IPv4Address, ...], host: Host
) -> tuple[IPv4Address, ...]:
    """The host's addresses now; bridges are refreshed when these are others than those known."""
    now = await host.addresses()
    if now != known:
        await refresh_bridges(host)
    return now


async def tidy_bridges(host: Host, unused_before: frozenset[str]) -> frozenset[str]:
    """Remove bridges that are unused for the second time; those that were for the first.

    A job that is at work may be about to use one, so then none is removed.
    """
    unused: set[str] = set()
    for network in await host.incus.networks.list():
        policy = policy_of_bridge(network)
        if policy is None or network.used_by:
            continue
        if network.name not in unused_before or host.runner.list_active():
            unused.add(network.name)
        else:
            await drop_policy_bridge(policy, host.incus)
            await host.walls.forget(policy.bridge)
    return frozenset(unused)
