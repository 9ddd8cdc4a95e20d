"""What a channel offers: images, as its signed metadata describes them.

Untrusted
├── Expired             it was right once; whoever publishes has to renew it
├── RolledBack          it is older than what was already seen
├── WrongKeys           nobody whom the root names has signed it
├── TooFewSignatures    some whom the root names have signed it, but not enough of them
├── Malformed           it is not what metadata of taOS looks like: bad names, numbers, paths
└── WrongContent        the bytes are not the signed ones, or too many
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError

from tinyagentos.model.errors import Untrusted

KIND, FORMAT = "image", 1
CHUNK_BYTES = 4 << 20
# Bounds for what a client takes from metadata before it has fetched a byte of the image.
MAX_IMAGE_BYTES = 16 << 30
MAX_UNPACKED_BYTES = 256 << 30
MAX_CHUNK_BYTES = 64 << 20
MAX_SEQUENCE = (1 << 53) - 1
SHOWN_FINGERPRINT = 12

FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DocumentName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,199})?$")]


class Expired(Untrusted):
    """It was right once; whoever publishes has to renew it."""


class RolledBack(Untrusted):
    """It is older than what was already seen."""


class WrongKeys(Untrusted):
    """Nobody whom the root names has signed it."""


class TooFewSignatures(Untrusted):
    """Some whom the root names have signed it, but not enough of them."""


class Malformed(Untrusted):
    """It is not what metadata of taOS looks like."""


class WrongContent(Untrusted):
    """The bytes are not the signed ones, or too many."""


@dataclass(frozen=True)
class ImageTarget:
    """One image of a channel: the `custom` part of its TUF target.

    fingerprint: SHA-256 of the unified image file, as Incus computes it. unpacked_bytes: its files
    unpacked. chunks: SHA-256 of every chunk_bytes of the file in turn; the last may be shorter.
    recipe: the digest of the recipe's folder. lock, sbom: names of the targets that hold them, or
    empty. sequence: orders releases, see `newer`. released: when it was published.
    """

    framework: Word
    version: Version
    arch: Literal["x64", "arm64"]
    fingerprint: Sha256
    size_bytes: Annotated[int, Field(gt=0, le=MAX_IMAGE_BYTES)]
    unpacked_bytes: Annotated[int, Field(ge=0, le=MAX_UNPACKED_BYTES)]
    chunk_bytes: Annotated[int, Field(ge=1 << 16, le=MAX_CHUNK_BYTES)]
    chunks: tuple[Sha256, ...]
    recipe: Sha256
    released: AwareDatetime
    sequence: Annotated[int, Field(ge=1, le=MAX_SEQUENCE)]
    lock: DocumentName = ""
    sbom: DocumentName = ""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="ignore")

    def __post_init__(self) -> None:
        """Raise ValueError unless the chunks cover the file and the time is in UTC."""
        needed = -(-self.size_bytes // self.chunk_bytes)
        if len(self.chunks) != needed:
            raise ValueError(f"{len(self.chunks)} chunks, but the size needs {needed}")
        if self.released.utcoffset() != timedelta(0):
            raise ValueError("`released` is not in UTC")

    @property
    def name(self) -> str:
        """Its target's name. The fingerprint's start tells two builds of one version apart."""
        short = self.fingerprint[:SHOWN_FINGERPRINT]
        return f"{self.framework}-{self.version}-{self.arch}-{short}.tar.zst"

    @property
    def file_name(self) -> str:
        """The name of its file in the channel."""
        return channel_file_name(self.name, self.fingerprint)

    def newer(self, than: ImageTarget) -> bool:
        """Whether it was released later, whatever the versions say.

        A release's sequence is the time of its publication in seconds, or one more than the highest
        in the channel where a clock was wrong. So an older version that is published again, because
        the newest one is broken, is the newer release; and a channel begun anew goes on upwards.
        """
        return self.sequence > than.sequence

    def dump(self) -> dict[str, object]:
        """As the target's `custom`, of which parse_image_target() makes the same value again."""
        plain = asdict(self)
        released = self.released.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return {
            "kind": KIND, "format": FORMAT, **plain,
            "chunks": list(self.chunks), "released": released,
        }  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A file of a channel beside the images: a lock or an SBOM."""

    name: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        """The name of its file in the channel."""
        return channel_file_name(self.name, self.sha256)


@dataclass(frozen=True)
class Index:
    """The whole of a channel, as signed. expires: when the first part of it has to be renewed."""

    version: int
    expires: datetime
    images: tuple[ImageTarget, ...]
    documents: tuple[Document, ...] = ()

    def newest(self, framework: str, arch: str) -> ImageTarget | None:
        """The framework's newest image for the architecture."""
        return next(iter(self.history(framework, arch)), None)

    def history(self, framework: str, arch: str) -> tuple[ImageTarget, ...]:
        """The framework's images for the architecture, the newest first."""
        return image_history(self.images, framework, arch)


def image_history(
    images: Iterable[ImageTarget], framework: str, arch: str
) -> tuple[ImageTarget, ...]:
    """Those of the images that are the framework's for the architecture, the newest first."""
    fitting = [one for one in images if (one.framework, one.arch) == (framework, arch)]
    return tuple(sorted(fitting, key=lambda one: -one.sequence))


def channel_file_name(target: str, sha256: str) -> str:
    """The file that a target is in: content under a new digest is a new file."""
    return f"{sha256}.{target}"


def is_image(custom: object) -> bool:
    """Whether a target's `custom` describes an image in the way that this version reads."""
    return (
        isinstance(custom, Mapping)
        and custom.get("kind") == KIND
        and custom.get("format") == FORMAT
    )


def parse_image_target(custom: object) -> ImageTarget:
    """The image that a target's `custom` describes; Malformed names the first thing wrong."""
    try:
        text = json.dumps(custom, allow_nan=False)
        if not is_image(custom):
            raise ValueError(f"it is no {KIND} of format {FORMAT}")
        return _IMAGE_TARGET.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "chunks"
        raise _malformed(f"`{key}`: {first['msg']}") from error
    except (TypeError, ValueError) as error:
        raise _malformed(str(error)) from error


def parse_document(name: str, sha256: str, size_bytes: int) -> Document:
    """The document; Malformed when its name or digest cannot be one."""
    if not re.fullmatch(FILE_NAME, name) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise _malformed(f"a file is called {name[:80]!r}")
    return Document(name, sha256, size_bytes)


def check_index(images: tuple[ImageTarget, ...], documents: tuple[Document, ...]) -> None:
    """Raise Malformed when images name documents that are not there, or have no order."""
    there = {one.name for one in documents}
    for image in images:
        for name in filter(None, (image.lock, image.sbom)):
            if name not in there:
                raise _malformed(f"{image.name} names {name}, which is not in the channel")
    ordered = sorted((one.framework, one.arch, one.sequence) for one in images)
    if twice := next((one for one, other in pairwise(ordered) if one == other), None):
        raise _malformed(f"two images of {twice[0]} for {twice[1]} have the number {twice[2]}")


def _malformed(why: str) -> Malformed:
    return Malformed(
        f"The channel's description of an image cannot be used: {why}.",
        hint="Nothing of it is used. Whoever publishes the channel has to mend it.",
    )


_IMAGE_TARGET = TypeAdapter(ImageTarget)
