"""Packing a root into one Incus image file: the same root gives the same bytes.

A unified image is a tar with metadata.yaml and rootfs/ (Incus, "Image format"). Names are sorted,
owners numeric, times fixed; no --transform, which would rewrite the targets of links as well.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from tinyagentos import proc
from tinyagentos.model.image import INCUS_ARCH
from tinyagentos.model.recipe import Recipe

PACK_WITHIN = 1800.0
# 27 is the widest window that zstd, and so Incus, unpacks unasked. The size of a job is fixed: the
# bytes must not depend on the number of processors, and two have work (docs/adr/0028).
LEVELS = {
    "release": ("-19", "--long=27", "-B320MiB"),
    "fast": ("-6", "--long=27", "-B160MiB"),
    "local": ("-1",),
}
# The name a container gives itself is its instance's.
HOSTNAME_TEMPLATE = "{{ container.name }}\n"


@dataclass(frozen=True)
class PackedImage:
    """An image file. fingerprint: its SHA-256, as Incus computes it for a unified image."""

    path: Path
    fingerprint: str
    size_bytes: int


def render_metadata(recipe: Recipe, arch: str) -> str:
    """The image's metadata.yaml; it depends on recipe and architecture only."""
    return f"""architecture: "{INCUS_ARCH[arch]}"
creation_date: {recipe.epoch}
properties:
  os: "Debian"
  architecture: "{INCUS_ARCH[arch]}"
  description: "{recipe.title} {recipe.version}"
  taos.framework: "{recipe.name}"
  taos.version: "{recipe.version}"
  taos.recipe: "{recipe.digest}"
templates:
  /etc/hostname:
    when: [create, copy, rename]
    create_only: false
    template: hostname.tpl
"""


async def pack(work: Path, recipe: Recipe, arch: str, out: Path, *, level: str) -> PackedImage:
    """Pack `work/rootfs` into the file out; it appears when it is whole."""
    (work / "metadata.yaml").write_text(render_metadata(recipe, arch))
    (work / "templates").mkdir(exist_ok=True)
    (work / "templates" / "hostname.tpl").write_text(HOSTNAME_TEMPLATE)
    part = out.with_name(out.name + ".part")
    try:
        await proc.run(
            "tar", "--create", f"--directory={work}", "--sort=name", "--numeric-owner",
            # Clamped, not set: Python's byte code is only used with its source's own time.
            f"--mtime=@{recipe.epoch}", "--clamp-mtime",
            "--format=pax", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            "--xattrs", f"--use-compress-program={' '.join(('zstd', '-T0', *LEVELS[level]))}",
            f"--file={part}", "metadata.yaml", "rootfs", "templates",
            within=PACK_WITHIN,
        )  # fmt: skip
        fingerprint = await asyncio.to_thread(_sha256, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return PackedImage(out, fingerprint, out.stat().st_size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
