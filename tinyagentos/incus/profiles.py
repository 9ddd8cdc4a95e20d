"""Profiles: named sets of config and devices that instances share."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from tinyagentos.incus.errors import AlreadyExists, NotFound
from tinyagentos.incus.operations import Api
from tinyagentos.incus.parse import Object, as_object, as_objects, devices, strings, text, texts
from tinyagentos.incus.transport import NONE, Texts

PATH = "/1.0/profiles"
Devices = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Profile:
    """A profile as it was when asked for."""

    name: str
    description: str
    config: Mapping[str, str]
    devices: Devices
    used_by: tuple[str, ...]

    @classmethod
    def parse(cls, seen: Object) -> Profile:
        """Read Incus's JSON."""
        return cls(
            name=text(seen, "name"),
            description=text(seen, "description"),
            config=strings(seen, "config"),
            devices=devices(seen, "devices"),
            used_by=texts(seen, "used_by"),
        )


@dataclass(frozen=True)
class Profiles:
    """The profiles of the project."""

    api: Api

    async def list(self) -> tuple[Profile, ...]:
        """All profiles."""
        seen = await self.api.get(PATH, query={"recursion": "1"})
        return tuple(Profile.parse(one) for one in as_objects(seen))

    async def find(self, name: str) -> Profile | None:
        """The profile, or None."""
        with contextlib.suppress(NotFound):
            return await self.get(name)
        return None

    async def get(self, name: str) -> Profile:
        """The profile; NotFound when there is none."""
        return Profile.parse(as_object(await self.api.get(_path(name))))

    async def ensure(
        self,
        name: str,
        *,
        config: Texts = NONE,
        devices: Devices = MappingProxyType({}),
        description: str = "",
    ) -> Profile:
        """The profile with exactly this config and these devices."""
        found = await self.find(name)
        if found is None:
            body = {"name": name, **_body(config, devices, description)}
            with contextlib.suppress(AlreadyExists):
                await self.api.call("POST", PATH, body)
        elif dict(found.config) != dict(config) or found.devices != devices:
            await self.update(
                name,
                config=config,
                devices=devices,
                description=description or found.description,
            )
        return await self.get(name)

    async def update(
        self, name: str, *, config: Texts, devices: Devices, description: str = ""
    ) -> None:
        """Replace the profile's content; instances that use it change with it."""
        # Incus answers some changes to profiles in use as background work.
        await self.api.run("PUT", _path(name), _body(config, devices, description))

    async def delete(self, name: str) -> None:
        """Delete the profile; IncusError when an instance uses it."""
        await self.api.call("DELETE", _path(name))


def _path(name: str) -> str:
    return f"{PATH}/{quote(name, safe='')}"


def _body(config: Texts, devices: Devices, description: str) -> Object:
    return {
        "description": description,
        "config": dict(config),
        "devices": {device: dict(keys) for device, keys in devices.items()},
    }
