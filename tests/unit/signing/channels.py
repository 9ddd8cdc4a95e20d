"""Signed channels for tests: real keys, real metadata, files in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tinyagentos.model.errors import NotFound
from tinyagentos.model.release import CHUNK_BYTES, ImageTarget
from tinyagentos.signing.channel import Channel
from tinyagentos.signing.keys import LIFETIME, init_keys, load_roots
from tinyagentos.signing.repository import SignedRelease, Target, read_published, sign_release


def no_passphrase(_: str) -> str:
    """The keys of tests are not encrypted."""
    return ""


def image_of(content: bytes, sequence: int = 1, **changes: object) -> ImageTarget:
    """The description of these bytes as an image."""
    pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    values: dict[str, object] = {
        "framework": "openclaw",
        "version": "2026.9.6",
        "arch": "x64",
        "fingerprint": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "unpacked_bytes": 3 * len(content),
        "chunk_bytes": CHUNK_BYTES,
        "chunks": tuple(hashlib.sha256(piece).hexdigest() for piece in pieces),
        "recipe": "d" * 64,
        "released": datetime(2026, 11, 20, tzinfo=UTC),
        "sequence": sequence,
    }
    return ImageTarget(**(values | changes))  # type: ignore[arg-type]


def target_of(image: ImageTarget) -> Target:
    """The target that describes the image."""
    return Target(image.name, image.fingerprint, image.size_bytes, image.dump())


@dataclass
class MemoryChannel:
    """A channel whose files are a dict that a test may spoil. asked: the names read of it."""

    keys: Path
    now: datetime
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    lifetime: dict[str, timedelta] = field(default_factory=lambda: dict(LIFETIME))

    def begin(self) -> MemoryChannel:
        """Make the keys."""
        init_keys(self.keys, no_passphrase, self.now)
        return self

    def sign(self, *images: ImageTarget, version: int = 0) -> SignedRelease:
        """The next version, not yet shown."""
        roots = load_roots(self.keys)
        published = read_published(self.fetch, roots)
        return sign_release(
            self.keys, roots, published, tuple(map(target_of, images)),
            version=version or published.version + 1, ask=no_passphrase, now=self.now,
            lifetime=self.lifetime,
        )  # fmt: skip

    def show(self, *images: ImageTarget, version: int = 0) -> SignedRelease:
        """Sign and show the next version."""
        release = self.sign(*images, version=version)
        self.files |= {file.name: file.content for file in release.files}
        return release

    def fetch(self, name: str) -> Iterator[bytes]:
        """The fetch function of clients."""
        self.asked.append(name)
        if name not in self.files:
            raise NotFound(f"no {name}")
        yield self.files[name]

    def client(self, state: Path, root: int = 1) -> Channel:
        """A client that begins its trust at that root."""
        return Channel((self.keys / f"{root}.root.json").read_bytes(), state, self.fetch)
