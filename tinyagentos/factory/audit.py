"""Verifying what was published, byte by byte: a channel's folder, or one image file."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.factory.candidate import hash_chunks
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.release import Document, ImageTarget, Index, WrongContent
from tinyagentos.signing.channel import Channel, directory
from tinyagentos.signing.folder import check_metadata_folder

HASHED = re.compile(r"([0-9a-f]{64})\..+")
HINT = "Do not use it; get it from the channel again."


@dataclass(frozen=True)
class Audit:
    """What was verified. others: files that nobody has signed, and that no client asks for."""

    index: Index
    verified: tuple[str, ...]
    others: tuple[str, ...] = ()


def verify_channel(folder: Path, root: bytes) -> Audit:
    """Verify every file of the channel's folder; Untrusted or Unavailable names the first bad one.

    root: where trust begins. Files of the version before, which stay for clients that are at it,
    are verified as well.
    """
    if not folder.is_dir():
        raise InvalidInput(f"There is no folder {folder}.", hint="Give the folder of a channel.")
    index = _read(folder, root)
    verified = set(check_metadata_folder(folder, root))
    targets: tuple[ImageTarget | Document, ...] = (*index.images, *index.documents)
    for target in targets:
        verify_target(folder / target.file_name, target)
        verified.add(target.file_name)
    for path in sorted(folder.iterdir()):
        if path.name not in verified and (found := HASHED.fullmatch(path.name)):
            _check(hash_chunks(path, 1 << 20)[0] == found[1], path, "its name's digest")
            verified.add(path.name)
    others = {path.name for path in folder.iterdir()} - verified
    return Audit(index, tuple(sorted(verified)), tuple(sorted(others)))


def verify_file(path: Path, channel: Path, root: bytes) -> tuple[ImageTarget, Index]:
    """The image that the file is by the channel's signed metadata; WrongContent when it is none."""
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", hint="Give an image file, or a folder.")
    index = _read(channel, root)
    fingerprint, _ = hash_chunks(path, 1 << 20)
    for image in index.images:
        if image.fingerprint == fingerprint:
            verify_target(path, image)
            return image, index
    for image in index.images:
        if path.name in {image.name, image.file_name}:
            verify_target(path, image)
    raise WrongContent(f"{path.name} is not an image of this channel.", hint=HINT)


def verify_target(path: Path, target: ImageTarget | Document) -> None:
    """Raise WrongContent unless the file is what was signed; of an image it says where not."""
    if not path.is_file():
        raise WrongContent(f"{path.name} is missing.", hint="Publish it again, or get all files.")
    size = path.stat().st_size
    _check(size == target.size_bytes, path, f"{target.size_bytes} bytes, but {size}")
    if isinstance(target, Document):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check(digest == target.sha256, path, "the signed bytes")
        return
    fingerprint, chunks = hash_chunks(path, target.chunk_bytes)
    for number, (is_now, signed) in enumerate(zip(chunks, target.chunks, strict=True)):
        at = number * target.chunk_bytes
        _check(is_now == signed, path, f"the signed bytes in the {target.chunk_bytes} from {at}")
    _check(fingerprint == target.fingerprint, path, "the signed bytes")


def _read(folder: Path, root: bytes) -> Index:
    with tempfile.TemporaryDirectory(prefix="taos-verify-") as state:
        return Channel(root, Path(state), directory(folder)).refresh()


def _check(is_so: bool, path: Path, what: str) -> None:
    if not is_so:
        raise WrongContent(f"{path.name} does not have {what}.", hint=HINT)
