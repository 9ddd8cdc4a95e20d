"""The door to Incus."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tinyagentos.incus.certificates import Certificates
from tinyagentos.incus.errors import IncusError, IncusTimeout
from tinyagentos.incus.events import Event, Resync, follow
from tinyagentos.incus.files import Files
from tinyagentos.incus.images import Images
from tinyagentos.incus.instances import Instances
from tinyagentos.incus.networks import Networks
from tinyagentos.incus.operations import Api, Operation
from tinyagentos.incus.parse import as_object, as_objects, text
from tinyagentos.incus.profiles import Profiles
from tinyagentos.incus.projects import Projects
from tinyagentos.incus.server import ServerInfo
from tinyagentos.incus.storage import Storage
from tinyagentos.incus.transport import Transport, tls_connector, unix_connector

WITHIN = 30.0
STALL = 60.0


class Incus:
    """One daemon, seen from one project.

    Making it does no I/O; the connection opens at the first call. Every call ends: requests
    within `within` seconds, transfers when no byte moved for `stall` seconds, background work
    within the method's own deadline. All raise IncusError, and IncusUnreachable when the daemon
    is not there or does not answer.
    """

    def __init__(self, transport: Transport, project: str = "taos") -> None:
        self.transport = transport
        self.project = project
        api = Api(transport, project)
        self._api = api
        self.instances = Instances(api)
        self.files = Files(api)
        self.images = Images(api)
        self.storage = Storage(api)
        self.networks = Networks(api)
        self.profiles = Profiles(api)
        self.projects = Projects(api)
        self.certificates = Certificates(api)

    @classmethod
    def unix(
        cls,
        socket_path: str | Path,
        project: str = "taos",
        *,
        within: float = WITHIN,
        stall: float = STALL,
    ) -> Self:
        """The daemon behind the Unix socket on this machine."""
        connect = unix_connector(socket_path)
        return cls(Transport("http://incus", connect, within=within, stall=stall), project)

    @classmethod
    def https(
        cls,
        url: str,
        cert: str | Path,
        key: str | Path,
        *,
        server_cert: str | Path | None = None,
        fingerprint: str = "",
        project: str = "taos",
        within: float = WITHIN,
        stall: float = STALL,
    ) -> Self:
        """The daemon at the URL, called with a client certificate.

        The server is pinned by its certificate (a PEM file) or by that certificate's SHA-256;
        another server is Forbidden.
        """
        if not server_cert and not fingerprint:
            raise ValueError("pin the server: give server_cert or fingerprint")
        connect = tls_connector(
            url,
            Path(cert),
            Path(key),
            server_cert=Path(server_cert) if server_cert else None,
            fingerprint=fingerprint,
        )
        transport = Transport(url.rstrip("/"), connect, within=within, stall=stall)
        return cls(transport, project)

    def with_project(self, name: str) -> Incus:
        """The same daemon seen from another project; it shares the connection."""
        return Incus(self.transport, name)

    async def server(self, *, within: float | None = None) -> ServerInfo:
        """What the daemon is and can do."""
        return ServerInfo.parse(as_object(await self._api.get("/1.0", within=within)))

    async def has_extension(self, name: str) -> bool:
        """Whether the daemon's API has the extension."""
        return (await self.server()).has_extension(name)

    def events(
        self, types: Sequence[str] = ("operation", "lifecycle"), *, all_projects: bool = False
    ) -> AsyncIterator[Event | Resync]:
        """What happens in the project, for ever: first a Resync, then Events.

        After a Resync, list what you follow: what happened before it is not told. There is one
        whenever the connection was lost and is back.
        """
        return follow(self._api, types, all_projects=all_projects)

    async def settle(self, name: str, *, within: float) -> None:
        """Return when nothing is at work any more on the instance, its snapshots or its volumes.

        That is: on anything whose name begins with this one. Raises IncusTimeout.
        """
        seen = as_object(await self._api.get("/1.0/operations", query={"recursion": "1"}))
        ours = re.compile(rf"/{re.escape(name)}(?![a-z0-9])")
        for one in as_objects(seen.get("running", [])):
            operation = Operation.parse(one)
            paths = (path for paths in operation.resources.values() for path in paths)
            if text(one, "class") == "task" and any(ours.search(path) for path in paths):
                try:
                    await self._api.wait(operation, within=within)
                except IncusTimeout:
                    raise
                except IncusError:
                    continue  # how it ended is nobody's business here

    async def close(self) -> None:
        """Close the connection, for all projects that share it."""
        await self.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
