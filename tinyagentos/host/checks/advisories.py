"""Incus has the fixes without which an agent could get out of its container."""

from __future__ import annotations

from tinyagentos.host.advisories import find_open
from tinyagentos.host.check import Check, Finding, Ground, fine, warning
from tinyagentos.incus import IncusError


async def look(ground: Ground) -> Finding:
    """Compare the version that Incus says, or that of its Debian package."""
    try:
        async with ground.incus("default") as incus:
            version = (await incus.server()).version
    except IncusError:
        return warning("not known while Incus does not answer", "Run `taos setup`.")
    left = await find_open(version)
    if not left:
        return fine(f"Incus {version} has the security fixes that agents need")
    what = "; ".join(f"{one.name}: {one.what}" for one in left)
    return warning(
        f"Incus {version} lacks a security fix. {what}",
        hint="Update Incus: `apt-get update && apt-get install --only-upgrade incus-base`.",
    )


CHECK = Check("fixes", "agents have root inside, and must not get out", look)
