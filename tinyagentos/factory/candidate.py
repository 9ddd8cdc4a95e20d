"""What is about to be published: an image file, measured, and the documents beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tinyagentos.factory.image_file import (
    METADATA,
    open_image,
    path_inside,
    read_member,
    read_properties,
)
from tinyagentos.factory.lock import beside
from tinyagentos.model.errors import InvalidInput, Untrusted
from tinyagentos.model.image import ARCH_OF_MACHINE
from tinyagentos.model.release import CHUNK_BYTES, ImageTarget, parse_image_target

LOCK, SBOM = "lock.json", "cdx.json"
READ_SIZE = 1 << 20


@dataclass(frozen=True)
class Upload:
    """A file to bring to a channel: its name there, and the bytes or where they are."""

    name: str
    sha256: str
    size_bytes: int
    content: bytes | Path

    def pieces(self) -> Iterator[bytes]:
        """The content; WrongContent is for the receiver to say, who compares the digest."""
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            while piece := file.read(READ_SIZE):
                yield piece


@dataclass(frozen=True)
class Candidate:
    """An image that is not yet released, and its documents. image: with a sequence of 1."""

    image: ImageTarget
    file: Upload
    documents: tuple[Upload, ...]


def read_candidate(path: Path, released: datetime) -> Candidate:
    """Measure the image file; InvalidInput when it is not an image of taOS."""
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", hint="Give the path of an image file.")
    properties, unpacked = _read_inside(path)
    fingerprint, chunks = hash_chunks(path, CHUNK_BYTES)
    size = path.stat().st_size
    plain = ImageTarget(
        framework=properties.get("taos.framework", ""),
        version=properties.get("taos.version", ""),
        arch=ARCH_OF_MACHINE.get(properties.get("architecture", ""), ""),  # type: ignore[arg-type] # checked by parsing it below
        fingerprint=fingerprint,
        size_bytes=size,
        unpacked_bytes=unpacked,
        chunk_bytes=CHUNK_BYTES,
        chunks=chunks,
        recipe=properties.get("taos.recipe", ""),
        released=released,
        sequence=1,
    )
    stem = plain.name.removesuffix(".tar.zst")
    documents = {kind: _document(path, kind, f"{stem}.{kind}") for kind in (LOCK, SBOM)}
    custom = plain.dump() | {
        key: one.name
        for key, one in (("lock", documents[LOCK]), ("sbom", documents[SBOM]))
        if one is not None
    }
    try:
        image = parse_image_target(custom)
    except Untrusted as error:
        raise InvalidInput(
            f"{path.name} is not an image of taOS: {error.message}",
            hint="Only images made by `taos image build` can be published.",
        ) from error
    return Candidate(
        image=image,
        file=Upload(image.name, fingerprint, size, path),
        documents=tuple(one for one in documents.values() if one),
    )


def hash_chunks(path: Path, chunk_bytes: int) -> tuple[str, tuple[str, ...]]:
    """The SHA-256 of the file, and of each chunk of it."""
    whole = hashlib.sha256()
    chunks: list[str] = []
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            whole.update(chunk)
            chunks.append(hashlib.sha256(chunk).hexdigest())
    return whole.hexdigest(), tuple(chunks)


def upload_of(name: str, content: bytes) -> Upload:
    """The bytes under that name."""
    return Upload(name, hashlib.sha256(content).hexdigest(), len(content), content)


def _read_inside(path: Path) -> tuple[dict[str, str], int]:
    properties: dict[str, str] = {}
    unpacked = 0
    with open_image(path) as tar:
        for member in tar:
            if member.name == METADATA:
                properties = read_properties(read_member(tar, member))
            elif path_inside(member):
                unpacked += member.size
    return properties, unpacked


def _document(image: Path, kind: str, name: str) -> Upload | None:
    path = beside(image, kind)
    return upload_of(name, path.read_bytes()) if path.is_file() else None
