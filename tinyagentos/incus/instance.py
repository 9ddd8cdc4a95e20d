"""The values of instances: what Incus is asked for and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tinyagentos.incus.parse import (
    Object,
    as_objects,
    child,
    children,
    devices,
    flag,
    integer,
    moment,
    strings,
    text,
    texts,
)

Devices = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class InstanceRequest:
    """What Incus is asked to create.

    The source is one of: image (a fingerprint), alias, copy_of (an instance or
    `instance/snapshot` of the project), or none of them for an empty root. pool: where the root
    goes when no device says so. profiles: None is Incus's default, the profile `default`.
    """

    name: str
    image: str = ""
    alias: str = ""
    copy_of: str = ""
    profiles: tuple[str, ...] | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    description: str = ""
    ephemeral: bool = False
    type: str = "container"

    def source(self) -> Object:
        """Where the root comes from, in Incus's words."""
        if self.image:
            return {"type": "image", "fingerprint": self.image}
        if self.alias:
            return {"type": "image", "alias": self.alias}
        if self.copy_of:
            return {"type": "copy", "source": self.copy_of, "instance_only": True}
        return {"type": "none"}

    def body(self, start: bool) -> Object:
        """The request in Incus's words."""
        body: dict[str, object] = {
            "name": self.name,
            "type": self.type,
            "source": self.source(),
            "config": dict(self.config),
            "devices": {name: dict(keys) for name, keys in self.devices.items()},
            "description": self.description,
            "ephemeral": self.ephemeral,
            "start": start,
        }
        if self.profiles is not None:
            body["profiles"] = list(self.profiles)
        return body


@dataclass(frozen=True)
class Address:
    """An address of a running instance; scope is `global`, `link` or `local`."""

    interface: str
    family: str
    address: str
    scope: str


@dataclass(frozen=True)
class InstanceState:
    """What an instance uses now; zero and empty when it does not run."""

    status: str
    status_code: int
    pid: int
    processes: int
    memory_bytes: int
    memory_peak_bytes: int
    cpu_ns: int
    disk_bytes: Mapping[str, int]
    addresses: tuple[Address, ...]
    started_at: datetime | None

    @classmethod
    def parse(cls, seen: Object) -> InstanceState:
        """Read Incus's JSON."""
        memory = child(seen, "memory")
        return cls(
            status=text(seen, "status"),
            status_code=integer(seen, "status_code"),
            pid=integer(seen, "pid"),
            processes=integer(seen, "processes"),
            memory_bytes=integer(memory, "usage"),
            memory_peak_bytes=integer(memory, "usage_peak"),
            cpu_ns=integer(child(seen, "cpu"), "usage"),
            disk_bytes={
                name: integer(disk, "usage") for name, disk in children(seen, "disk").items()
            },
            addresses=tuple(
                Address(name, text(one, "family"), text(one, "address"), text(one, "scope"))
                for name, interface in children(seen, "network").items()
                for one in as_objects(interface.get("addresses"))
            ),
            started_at=moment(seen, "started_at"),
        )


@dataclass(frozen=True)
class Instance:
    """An instance as it was when asked for.

    etag is set by get(), for a change of this version only; state by list(with_state=True).
    """

    name: str
    status: str
    status_code: int
    type: str
    architecture: str
    description: str
    config: Mapping[str, str]
    devices: Devices
    expanded_config: Mapping[str, str]
    expanded_devices: Devices
    profiles: tuple[str, ...]
    ephemeral: bool
    location: str
    project: str
    created_at: datetime | None
    last_used_at: datetime | None
    state: InstanceState | None = None
    etag: str = ""

    @property
    def is_running(self) -> bool:
        """Whether its processes run; `Ready` is running too."""
        return self.status in {"Running", "Ready"}

    @classmethod
    def parse(cls, seen: Object, etag: str = "") -> Instance:
        """Read Incus's JSON."""
        state = child(seen, "state")
        return cls(
            name=text(seen, "name"),
            status=text(seen, "status"),
            status_code=integer(seen, "status_code"),
            type=text(seen, "type"),
            architecture=text(seen, "architecture"),
            description=text(seen, "description"),
            config=strings(seen, "config"),
            devices=devices(seen, "devices"),
            expanded_config=strings(seen, "expanded_config"),
            expanded_devices=devices(seen, "expanded_devices"),
            profiles=texts(seen, "profiles"),
            ephemeral=flag(seen, "ephemeral"),
            location=text(seen, "location"),
            project=text(seen, "project"),
            created_at=moment(seen, "created_at"),
            last_used_at=moment(seen, "last_used_at"),
            state=InstanceState.parse(state) if state else None,
            etag=etag,
        )


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of an instance or of a volume; name is without its owner's."""

    name: str
    created_at: datetime | None
    expires_at: datetime | None
    description: str
    config: Mapping[str, str]

    @classmethod
    def parse(cls, seen: Object) -> Snapshot:
        """Read Incus's JSON."""
        return cls(
            name=text(seen, "name").rsplit("/", 1)[-1],
            created_at=moment(seen, "created_at"),
            expires_at=moment(seen, "expires_at"),
            description=text(seen, "description"),
            config=strings(seen, "config"),
        )
