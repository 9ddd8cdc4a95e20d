"""Agents have an Incus project of their own, apart from whatever else the host runs."""

from __future__ import annotations

from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine, unseen
from tinyagentos.incus import IncusError

CONFIG = {
    "features.images": "true",
    "features.profiles": "true",
    "features.storage.volumes": "true",
    "features.networks": "false",
    "user.taos.created-by": "taos",
}


async def look(ground: Ground) -> Finding:
    """Whether the project is there."""
    name = ground.settings.incus_project
    try:
        async with ground.incus("default") as incus:
            found = await incus.projects.find(name)
    except IncusError as error:
        return unseen(error, plan=f"make the project {name}")
    if found is None:
        return broken(f"there is no project {name}", plan=f"make the project {name}")
    return fine(f"project {name}")


async def fix(ground: Ground, _: Report) -> None:
    """Make the project; one that is there stays as it is."""
    async with ground.incus("default") as incus:
        if await incus.projects.find(ground.settings.incus_project) is None:
            await incus.projects.ensure(ground.settings.incus_project, CONFIG, "Agents of taOS")


CHECK = Check(
    "project", "agents, images and profiles of taOS are kept apart from others", look, fix
)
