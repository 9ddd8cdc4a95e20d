"""A channel on the disk, signed with real keys, for tests with real Incus."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

from tests.deploy.test_download import chunks
from tests.fakes.tiny_image import build_unified
from tests.unit.signing.channels import MemoryChannel, image_of
from tinyagentos.host.facts import host_arch


class Publisher:
    """A channel in a folder, with keys of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "channel"
        self.folder.mkdir()
        self.channel = MemoryChannel(home / "keys", datetime.now(UTC)).begin()
        self.sequence = 0

    def publish(self, version: str, size_bytes: int) -> str:
        """Release a tiny image of at least that size; its fingerprint."""
        self.sequence += 1
        more = {"root/more": random.Random(self.sequence).randbytes(size_bytes)}
        tiny = build_unified(
            self.home / f"{version}.tar.gz", files=more,
            properties={"taos.framework": "openclaw", "taos.version": version},
        )  # fmt: skip
        content = tiny.path.read_bytes()
        return self._show(content, version, chunk_bytes=1 << 16, chunks=chunks(content))

    def release(self, content: bytes, version: str) -> str:
        """Release an image that somebody else made; its fingerprint."""
        self.sequence += 1
        return self._show(content, version)

    def _show(self, content: bytes, version: str, **more: object) -> str:
        image = image_of(content, sequence=self.sequence, version=version, arch=host_arch(), **more)
        self.channel.show(image)
        for name, file in (self.channel.files | {image.file_name: content}).items():
            (self.folder / name).write_bytes(file)
        return image.fingerprint

    @property
    def settings(self) -> dict[str, str]:
        """How a server takes images from it."""
        root = str(self.home / "keys" / "1.root.json")
        return {"TAOS_IMAGE_CHANNEL": str(self.folder), "TAOS_IMAGE_ROOT": root}
