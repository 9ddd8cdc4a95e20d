"""Volume backups, as Incus makes them and takes them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping

import zstandard

Entry = tuple[tarfile.TarInfo, bytes]
INDEX = """name: state
backend: btrfs
pool: taos
optimized: false
optimized_header: false
type: custom
config:
  volume:
    config:{config}
    description: ""
    name: state
    type: custom
    used_by: []
    location: none
    content_type: filesystem
    project: taos
    created_at: 2026-11-26T06:22:28.707022324Z
"""


def entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **more: object) -> Entry:
    """A member of an archive."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode = kind, len(content), 0o755
    for key, value in more.items():
        setattr(member, key, value)
    return member, content


def folder(name: str, **more: object) -> Entry:
    """A folder in an archive."""
    return entry(name, tarfile.DIRTYPE, **more)


def index_of(config: Mapping[str, str]) -> str:
    """The backup's index.yaml."""
    lines = "".join(f"\n      {key}: '{value}'" for key, value in config.items())
    return INDEX.format(config=lines or " {}")


def pack(entries: Iterable[Entry], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    """The tar of these members in this order."""
    file = io.BytesIO()
    for member, content in entries:
        file.write(member.tobuf(format, "utf-8", "surrogateescape"))
        file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return file.getvalue() + bytes(2 * tarfile.BLOCKSIZE)


def pack_volume(config: Mapping[str, str], *entries: Entry, index: str = "") -> bytes:
    """The tar that Incus makes of a volume with these members below `backup/volume`."""
    head = entry("backup/index.yaml", content=(index or index_of(config)).encode())
    return pack((head, folder("backup/volume"), *entries))


def read_backup(content: bytes) -> Mapping[str, str]:
    """The config of the volume in a backup; the errors of the readers when it is none."""
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    else:
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        index = tar.extractfile("backup/index.yaml")
        if index is None:
            raise tarfile.TarError("no index")
        told = index.read().decode()
    if not told.startswith("{"):  # Incus's own: YAML
        lines = (line.split(": ", 1) for line in told.splitlines() if line.startswith(" " * 6))
        return {key.strip(): value.strip("'") for key, value in lines}
    found: Mapping[str, str] = json.loads(told)["config"]["volume"]["config"]
    return found
