"""Incus projects: namespaces of instances, images, profiles and volumes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from tinyagentos.incus.errors import AlreadyExists, NotFound
from tinyagentos.incus.operations import Api
from tinyagentos.incus.parse import Object, as_object, as_objects, strings, text, texts
from tinyagentos.incus.transport import NONE, Texts

PATH = "/1.0/projects"


@dataclass(frozen=True)
class Project:
    """A project as it was when asked for."""

    name: str
    description: str
    config: Mapping[str, str]
    used_by: tuple[str, ...]

    @classmethod
    def parse(cls, seen: Object) -> Project:
        """Read Incus's JSON."""
        return cls(
            name=text(seen, "name"),
            description=text(seen, "description"),
            config=strings(seen, "config"),
            used_by=texts(seen, "used_by"),
        )


@dataclass(frozen=True)
class Projects:
    """The daemon's projects."""

    api: Api

    async def list(self) -> tuple[Project, ...]:
        """All projects this client may see."""
        seen = await self.api.get(PATH, query={"recursion": "1"})
        return tuple(Project.parse(one) for one in as_objects(seen))

    async def find(self, name: str) -> Project | None:
        """The project, or None."""
        with contextlib.suppress(NotFound):
            return await self.get(name)
        return None

    async def get(self, name: str) -> Project:
        """The project; NotFound when there is none."""
        return Project.parse(as_object(await self.api.get(f"{PATH}/{quote(name, safe='')}")))

    async def ensure(self, name: str, config: Texts = NONE, description: str = "") -> Project:
        """The project; made with the config, or given those of its keys that differ."""
        found = await self.find(name)
        if found is None:
            body = {"name": name, "description": description, "config": dict(config)}
            with contextlib.suppress(AlreadyExists):
                await self.api.call("POST", PATH, body)
        elif any(found.config.get(key) != value for key, value in config.items()):
            await self.api.merge(f"{PATH}/{quote(name, safe='')}", config)
        return await self.get(name)

    async def delete(self, name: str) -> None:
        """Delete the project; Incus refuses while it holds anything but its default profile."""
        await self.api.call("DELETE", f"{PATH}/{quote(name, safe='')}")
