"""Agents' bridges have the firewall rules that their policies demand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine, unseen, warning
from tinyagentos.host.incus_rules import IncusRules
from tinyagentos.host.policy import filters_of, policy_bridges, read_host_addresses
from tinyagentos.host.wall import (
    PolicyBridge,
    has_incus_rules,
    missing_rules,
    plan_rules,
    unfiltered,
)
from tinyagentos.host.walls import RECORD, Firewall, Walls, read_record
from tinyagentos.incus import IncusError, Instance
from tinyagentos.model.errors import CommandFailed

PLAN = "load the firewall rules of agents again"
# How long what was repaired is told.
TOLD = timedelta(days=1)


async def look(ground: Ground) -> Finding:
    """Compare the kernel's rules with the policies; then what a server has repaired."""
    if not ground.facts.is_root:
        return warning("agents' firewall rules are seen by root only", "Run this with sudo.")
    try:
        bridges, instances = await _read(ground)
    except IncusError as error:
        return unseen(error, plan=PLAN)
    if lacking := await _lacking(bridges, instances):
        return broken(f"agents can reach what is closed to them: {'; '.join(lacking)}", plan=PLAN)
    record = read_record(ground.settings.run_dir / RECORD)
    if record.unplugged:
        named = "; ".join(f"{name}: {why}" for name, why in record.unplugged.items())
        return broken(f"unplugged as it cannot be confined: {named}", plan=PLAN)
    if record.at and datetime.now(UTC) - record.at < TOLD:
        return warning(
            f"somebody removed agents' firewall rules at {record.at:%H:%M} UTC; they are back "
            f"(times since the server's start: {record.repaired})",
            "A firewall that is loaded with `flush ruleset` does that: have it flush its own "
            "tables only.",
        )
    return fine(f"the firewall rules of {len(bridges)} agents' bridges are whole")


async def _read(ground: Ground) -> tuple[tuple[PolicyBridge, ...], tuple[Instance, ...]]:
    async with ground.incus() as incus:
        bridges = policy_bridges(await incus.networks.list())
        return bridges, await incus.instances.list() if bridges else ()


async def _lacking(
    bridges: tuple[PolicyBridge, ...], instances: tuple[Instance, ...]
) -> tuple[str, ...]:
    host = await read_host_addresses()
    # A bridge without its address here is of an Incus in another network namespace.
    bridges = tuple(one for one in bridges if one.address in host)
    names = [one.name for one in bridges]
    try:
        seen = await Firewall().look(names)
    except CommandFailed as error:
        return (error.message.rstrip("."),)
    said = [
        f"{one.name}: {', '.join(missing)}" for one in bridges
        if (missing := missing_rules(plan_rules(one, host), seen.walls.get(one.name, {})))
    ]  # fmt: skip
    if seen.incus:
        said += [f"{name}: Incus's own rules are gone" for name in names
                 if not has_incus_rules(name, seen, acl=True)]  # fmt: skip
    if seen.filters or seen.incus:
        bare = unfiltered(filters_of(instances, names), seen)
        said += [f"{nic.instance}: the filter of its addresses is gone" for nic in bare]
    return tuple(said)


async def fix(ground: Ground, _: Report) -> None:
    """Load the rules, and have Incus make its own anew."""
    bridges, instances = await _read(ground)
    walls = Walls(Firewall(), read_host_addresses, lambda: datetime.now(UTC))
    async with ground.incus() as incus:
        for one in bridges:
            await walls.ensure(one)
        await IncusRules(incus, walls, ground.settings.bridge).keep(instances)


CHECK = Check(
    "walls", "without its rules an agent reaches your home network and this host", look, fix
)
