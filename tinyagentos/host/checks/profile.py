"""The project's default profile gives an agent its disk and its network."""

from __future__ import annotations

from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine, unseen
from tinyagentos.host.checks import pool
from tinyagentos.host.wall import nic_device
from tinyagentos.incus import IncusError
from tinyagentos.incus.profiles import Profile

NAME = "default"


def missing_devices(
    profile: Profile | None, pool_name: str, bridge: str
) -> dict[str, dict[str, str]]:
    """The devices the profile lacks; those that are there are left as they are."""
    wanted = {
        "root": {"type": "disk", "path": "/", "pool": pool_name},
        "eth0": dict(nic_device("eth0", bridge)),
    }
    have = profile.devices if profile else {}
    return {name: keys for name, keys in wanted.items() if name not in have}


async def look(ground: Ground) -> Finding:
    """Whether the profile has both devices."""
    try:
        async with ground.incus() as incus:
            project = await incus.projects.find(ground.settings.incus_project)
            profile = await incus.profiles.find(NAME)
    except IncusError as error:
        return unseen(error, plan="give the profile its devices")
    missing = missing_devices(profile, "", "")
    if not missing:
        return fine("the default profile has disk and network")
    names = " and ".join(missing)
    if project and project.config.get("features.profiles") != "true":
        return broken(
            f"the default profile has no {names}, and it is not the project's own",
            hint=f"Give it {names} yourself: others' instances may use it too.",
        )
    return broken(f"the default profile has no {names}", plan=f"give the profile {names}")


async def fix(ground: Ground, _: Report) -> None:
    """Add the devices that are missing."""
    pool_name = (await pool.make_plan(ground)).name
    async with ground.incus() as incus:
        profile = await incus.profiles.get(NAME)
        devices = {
            **profile.devices,
            **missing_devices(profile, pool_name, ground.settings.bridge),
        }
        await incus.profiles.update(
            NAME, config=profile.config, devices=devices, description=profile.description
        )


CHECK = Check("profile", "every agent gets its disk and its network from it", look, fix)
