"""Agents have a bridge with address translation, on a subnet that nothing else uses."""

from __future__ import annotations

from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine, unseen
from tinyagentos.host.subnet import find_free_subnet
from tinyagentos.incus import AlreadyExists, IncusError


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
