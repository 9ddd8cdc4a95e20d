"""The clients that Incus trusts."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tinyagentos.incus.operations import Api
from tinyagentos.incus.parse import Object, as_objects, flag, text, texts

PATH = "/1.0/certificates"


@dataclass(frozen=True)
class Certificate:
    """A trusted certificate; a restricted one sees only its projects."""

    fingerprint: str
    name: str
    type: str
    restricted: bool
    projects: tuple[str, ...]

    @classmethod
    def parse(cls, seen: Object) -> Certificate:
        """Read Incus's JSON."""
        return cls(
            fingerprint=text(seen, "fingerprint"),
            name=text(seen, "name"),
            type=text(seen, "type"),
            restricted=flag(seen, "restricted"),
            projects=texts(seen, "projects"),
        )


@dataclass(frozen=True)
class Certificates:
    """The daemon's list of trusted certificates."""

    api: Api

    async def list(self) -> tuple[Certificate, ...]:
        """All of them."""
        seen = await self.api.get(PATH, query={"recursion": "1"})
        return tuple(Certificate.parse(one) for one in as_objects(seen))

    async def add(self, pem: str, name: str, *, projects: Sequence[str] = ()) -> None:
        """Trust the certificate, restricted to the projects if there are any.

        AlreadyExists when it is trusted already.
        """
        body = {
            "name": name,
            "type": "client",
            "certificate": base64.b64encode(ssl.PEM_cert_to_DER_cert(pem.strip())).decode(),
            "restricted": bool(projects),
            "projects": list(projects),
        }
        await self.api.call("POST", PATH, body)

    async def delete(self, fingerprint: str) -> None:
        """No longer trust the certificate."""
        await self.api.call("DELETE", f"{PATH}/{quote(fingerprint, safe='')}")
