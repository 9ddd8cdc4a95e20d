"""Image files whose every member a test chooses."""

from __future__ import annotations

import io
import platform
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

METADATA = f"""architecture: "{platform.machine()}"
properties:
  taos.framework: "openclaw"
  taos.version: "1.0"
"""


@dataclass(frozen=True)
class Member:
    """A file of the image's root."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    headers: Mapping[str, str] = field(default_factory=dict)


def write_image(
    path: Path, members: Iterable[Member], metadata: str = METADATA, *, as_built: bool = False
) -> Path:
    """An image file with these files, in this order; compressed unless it is called *.tar.

    as_built: in the order of a walk over folders, which are in it as well.
    """
    if as_built:
        members = sorted(members, key=lambda one: one.path.split("/"))
    made = set[str]()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, one in (
            ("metadata.yaml", Member("", metadata.encode())),
            *((f"rootfs{one.path}", one) for one in members),
        ):
            for parent in reversed(Path(name).parents[:-1]) if as_built else ():
                if str(parent) not in made:
                    made.add(str(parent))
                    folder = tarfile.TarInfo(str(parent))
                    folder.type = tarfile.DIRTYPE
                    tar.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.pax_headers = len(one.content), one.mode, dict(one.headers)
            tar.addfile(info, io.BytesIO(one.content))
    content = plain.getvalue()
    path.write_bytes(content if path.suffix == ".tar" else zstandard.compress(content, 1))
    return path
