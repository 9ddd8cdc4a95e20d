"""How large what is packed in a file would be, found out without unpacking it anywhere."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any

from tinyagentos.model.errors import InvalidInput

GZIP, TAR = b"\x1f\x8b", b"ustar"
TAR_AT = 257
PIECE = 1024 * 1024


def unpacked_bytes(path: Path, offset: int, size: int, most: int) -> int:
    """What the tar in that part of the file unpacks to, counted up to a little more than `most`.

    A file of some megabytes can unpack to gigabytes. Raises InvalidInput for what is neither a
    tar nor packed by gzip.
    """
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(min(size, TAR_AT + len(TAR)))
        file.seek(offset)
        if head[TAR_AT:] == TAR:
            return size
        if not head.startswith(GZIP):
            raise InvalidInput(
                f"What is in {path.name} is packed in another way.",
                hint="Give a file that `taos agent export` wrote.",
            )
        total = 0
        try:
            with gzip.open(_Part(file, size)) as unpacked:
                while total <= most and (piece := unpacked.read(PIECE)):
                    total += len(piece)
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidInput(
                f"What is in {path.name} cannot be unpacked: {error}.", hint="Export it again."
            ) from error
        return total


class _Part(io.RawIOBase):
    """So many bytes of a file, from where it is, as a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - io's own word for it
        """Read into the buffer; how much that was."""
        piece = self._file.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)
