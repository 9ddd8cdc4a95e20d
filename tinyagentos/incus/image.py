"""The values of images: what Incus answers about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tinyagentos.incus.parse import Object, as_objects, flag, integer, moment, strings, text


@dataclass(frozen=True)
class ImageAlias:
    """A movable name; target is the fingerprint it stands for."""

    name: str
    target: str
    description: str
    type: str

    @classmethod
    def parse(cls, seen: Object) -> ImageAlias:
        """Read Incus's JSON."""
        return cls(
            text(seen, "name"), text(seen, "target"), text(seen, "description"), text(seen, "type")
        )


@dataclass(frozen=True)
class Image:
    """An image as it was when asked for; size in bytes, as packed."""

    fingerprint: str
    aliases: tuple[str, ...]
    architecture: str
    size: int
    type: str
    filename: str
    properties: Mapping[str, str]
    public: bool
    auto_update: bool
    cached: bool
    created_at: datetime | None
    uploaded_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def parse(cls, seen: Object) -> Image:
        """Read Incus's JSON."""
        return cls(
            fingerprint=text(seen, "fingerprint"),
            aliases=tuple(text(alias, "name") for alias in as_objects(seen.get("aliases"))),
            architecture=text(seen, "architecture"),
            size=integer(seen, "size"),
            type=text(seen, "type"),
            filename=text(seen, "filename"),
            properties=strings(seen, "properties"),
            public=flag(seen, "public"),
            auto_update=flag(seen, "auto_update"),
            cached=flag(seen, "cached"),
            created_at=moment(seen, "created_at"),
            uploaded_at=moment(seen, "uploaded_at"),
            last_used_at=moment(seen, "last_used_at"),
        )
