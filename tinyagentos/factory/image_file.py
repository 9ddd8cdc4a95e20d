"""Reading an image file as a stream: nothing is unpacked to disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

from tinyagentos.model.errors import InvalidInput

MAGIC = b"\x28\xb5\x2f\xfd"
# What `zstd --long=27` needs; a file that asks for more memory is not one of ours.
WINDOW = 1 << 27
CHUNK = 1 << 20
ROOT = "rootfs"
METADATA = "metadata.yaml"


@contextmanager
def open_image(path: Path) -> Iterator[tarfile.TarFile]:
    """The members of the image, each readable only while it is the last one that was taken.

    Raises InvalidInput when the file is no image, or ends too early.
    """
    try:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            is_zstd = file.read(len(MAGIC)) == MAGIC
            file.seek(0)
            stream: IO[bytes] = file
            if is_zstd:
                unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
                reader = unpacker.stream_reader(file, read_size=CHUNK)
                # It has the methods that tarfile calls, if not all of IO.
                stream = cast(IO[bytes], stack.enter_context(reader))
            yield stack.enter_context(
                tarfile.open(
                    fileobj=stream,
                    mode="r|" if is_zstd else "r|*",
                    bufsize=CHUNK,
                    errors="surrogateescape",
                )
            )
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror or error}.", hint="Give an image file."
        ) from error
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise InvalidInput(
            f"{path.name} is not a whole image file: {error}.",
            hint="Only files made by `taos image build` can be read.",
        ) from error


def path_inside(member: tarfile.TarInfo) -> str:
    """The member's path in the image's root, `/usr/bin/env`; empty for what is beside the root."""
    inside = member.name.removeprefix(ROOT)
    return inside if inside != member.name and inside.startswith("/") else ""


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a file; nothing for folders and links."""
    content = tar.extractfile(member) if member.isreg() else None
    return content.read() if content else b""


def read_properties(metadata: bytes) -> dict[str, str]:
    """The plain `key: value` lines of a metadata.yaml as taOS writes it, at any depth."""
    pairs = (line.split(":", 1) for line in metadata.decode().splitlines() if ":" in line)
    return {key.strip().strip("\"'"): value.strip().strip("\"'") for key, value in pairs}
