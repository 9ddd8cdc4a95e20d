"""Networks and network ACLs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import quote

from tinyagentos.incus.errors import NotFound
from tinyagentos.incus.operations import Api
from tinyagentos.incus.parse import Object, as_object, as_objects, flag, strings, text, texts
from tinyagentos.incus.transport import NONE, Texts

NETWORKS = "/1.0/networks"
ACLS = "/1.0/network-acls"


@dataclass(frozen=True)
class Network:
    """A network as it was when asked for; managed ones are Incus's own."""

    name: str
    type: str
    managed: bool
    status: str
    description: str
    config: Mapping[str, str]
    used_by: tuple[str, ...]

    @classmethod
    def parse(cls, seen: Object) -> Network:
        """Read Incus's JSON."""
        return cls(
            name=text(seen, "name"),
            type=text(seen, "type"),
            managed=flag(seen, "managed"),
            status=text(seen, "status"),
            description=text(seen, "description"),
            config=strings(seen, "config"),
            used_by=texts(seen, "used_by"),
        )


@dataclass(frozen=True)
class NetworkState:
    """A network now; addresses are the host's own on it."""

    state: str
    hwaddr: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Lease:
    """An address that the network gave out."""

    hostname: str
    hwaddr: str
    address: str
    type: str


@dataclass(frozen=True)
class AclRule:
    """A rule of an ACL, in Incus's words; empty fields match everything."""

    action: str
    state: str = "enabled"
    source: str = ""
    destination: str = ""
    protocol: str = ""
    source_port: str = ""
    destination_port: str = ""
    icmp_type: str = ""
    icmp_code: str = ""
    description: str = ""


@dataclass(frozen=True)
class Acl:
    """A network ACL as it was when asked for."""

    name: str
    description: str
    ingress: tuple[AclRule, ...]
    egress: tuple[AclRule, ...]
    used_by: tuple[str, ...]

    @classmethod
    def parse(cls, seen: Object) -> Acl:
        """Read Incus's JSON."""
        return cls(
            name=text(seen, "name"),
            description=text(seen, "description"),
            ingress=tuple(_rule(one) for one in as_objects(seen.get("ingress"))),
            egress=tuple(_rule(one) for one in as_objects(seen.get("egress"))),
            used_by=texts(seen, "used_by"),
        )


@dataclass(frozen=True)
class Networks:
    """The networks and ACLs that the project uses."""

    api: Api

    async def list(self) -> tuple[Network, ...]:
        """All networks, the host's own interfaces too."""
        seen = await self.api.get(NETWORKS, query={"recursion": "1"})
        return tuple(Network.parse(one) for one in as_objects(seen))

    async def find(self, name: str) -> Network | None:
        """The network, or None."""
        with contextlib.suppress(NotFound):
            return await self.get(name)
        return None

    async def get(self, name: str) -> Network:
        """The network; NotFound when there is none."""
        return Network.parse(as_object(await self.api.get(_path(NETWORKS, name))))

    async def create(
        self,
        name: str,
        *,
        config: Texts = NONE,
        type: str = "bridge",  # noqa: A002 - Incus's word
        description: str = "",
    ) -> Network:
        """The new network; AlreadyExists when the name is taken."""
        body = {
            "name": name,
            "type": type,
            "config": dict(config),
            "description": description,
        }
        await self.api.call("POST", NETWORKS, body)
        return await self.get(name)

    async def update(self, name: str, *, config: Texts) -> None:
        """Change these config keys and leave the others."""
        await self.api.merge(_path(NETWORKS, name), config)

    async def delete(self, name: str) -> None:
        """Delete the network; IncusError when it is in use."""
        await self.api.call("DELETE", _path(NETWORKS, name))

    async def state(self, name: str) -> NetworkState:
        """The network now."""
        seen = as_object(await self.api.get(_path(NETWORKS, name, "state")))
        addresses = tuple(text(one, "address") for one in as_objects(seen.get("addresses")))
        return NetworkState(text(seen, "state"), text(seen, "hwaddr"), addresses)

    async def leases(self, name: str) -> tuple[Lease, ...]:
        """The addresses the network gave to the project's instances."""
        seen = as_objects(await self.api.get(_path(NETWORKS, name, "leases")))
        return tuple(
            Lease(
                text(one, "hostname"), text(one, "hwaddr"), text(one, "address"), text(one, "type")
            )
            for one in seen
        )

    async def find_acl(self, name: str) -> Acl | None:
        """The ACL, or None."""
        with contextlib.suppress(NotFound):
            return Acl.parse(as_object(await self.api.get(_path(ACLS, name))))
        return None

    async def create_acl(
        self,
        name: str,
        *,
        ingress: Sequence[AclRule] = (),
        egress: Sequence[AclRule] = (),
        description: str = "",
    ) -> None:
        """Make the ACL; AlreadyExists when the name is taken."""
        body = {"name": name, **_acl(ingress, egress, description)}
        await self.api.call("POST", ACLS, body)

    async def update_acl(
        self,
        name: str,
        *,
        ingress: Sequence[AclRule] = (),
        egress: Sequence[AclRule] = (),
        description: str = "",
    ) -> None:
        """Replace the ACL's rules; what uses it obeys them at once."""
        await self.api.call("PUT", _path(ACLS, name), _acl(ingress, egress, description))

    async def delete_acl(self, name: str) -> None:
        """Delete the ACL; IncusError when it is in use."""
        await self.api.call("DELETE", _path(ACLS, name))


def _rule(seen: Object) -> AclRule:
    return AclRule(**{name: text(seen, name) for name in AclRule.__dataclass_fields__})


def _acl(ingress: Sequence[AclRule], egress: Sequence[AclRule], description: str) -> Object:
    return {
        "description": description,
        "ingress": [asdict(rule) for rule in ingress],
        "egress": [asdict(rule) for rule in egress],
    }


def _path(*parts: str) -> str:
    return "/".join((parts[0], *(quote(part, safe="") for part in parts[1:])))
