"""The host has Incus and the tools that build and run agents."""

from __future__ import annotations

from tinyagentos.host import packages
from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine


async def look(ground: Ground) -> Finding:
    """Ask dpkg only: no network, no apt."""
    plan = await packages.make_plan(ground.facts)
    if not plan.install:
        return fine("all packages are installed")
    source = f" from {plan.release}" if plan.release else ""
    names = ", ".join(plan.install)
    return broken(f"missing packages: {names}", plan=f"install {names}{source}")


async def fix(ground: Ground, report: Report) -> None:
    """Install what is missing."""
    plan = await packages.make_plan(ground.facts)
    report(f"installing {len(plan.install)} packages")
    await packages.install(plan, report)


CHECK = Check("packages", "agents run in Incus, and images are made with mmdebstrap", look, fix)
